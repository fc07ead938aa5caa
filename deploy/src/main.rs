//! The `ringmaster` command.
fn main() {}
