//! Compiles the wire contract with protox, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "ringmaster/v1/ringmaster.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["."])?;
    tonic_prost_build::configure()
        .bytes(".ringmaster.v1.FormRing.roster")
        .compile_fds(descriptors)?;
    Ok(())
}
