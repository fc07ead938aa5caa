//! The `ringmaster` command, built with the tests so that they never run a stale binary.
fn main() -> std::process::ExitCode {
    ringmaster::main()
}
