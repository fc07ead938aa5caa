//! What a worker does about what its coordinator says.
//!
//! [`Agent`] decides and is pure: no socket, no clock, no thread. It hears directives and what the
//! trainer thread has to tell, and answers with what is to be done; `ringmaster-worker` does it, and
//! so does the simulation. [`Reports`] is what the trainer thread has to tell, and what may have to
//! be told again.
//!
//! Two rules make a coordinator that comes back harmless. A directive of a term older than one that
//! was heard is refused. And whether this worker stays in its ring is not its own guess: every
//! welcome says so.

mod agent;
mod reports;

#[cfg(test)]
mod tests;

pub use agent::{Agent, Ending, Form, Task};
pub use reports::Reports;
