//! The `ringmaster` command.
fn main() -> std::process::ExitCode {
    ringmaster::main()
}
