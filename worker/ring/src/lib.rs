//! The ring: sums flat buffers over the ranks of one generation, exactly and cancellably.
//!
//! ```text
//!        +------> rank 1 ------+          each arrow is one TCP connection:
//!        |                     v            forward   segments, heartbeats, a farewell
//!     rank 0 <--- rank 3 <-- rank 2         back      heartbeats, a farewell
//!                                         between ranks of one host, segments go through memory
//! ```
//!
//! - [`topology`] decides which chunk moves when; [`fixed`] decides what an exact sum is. Both are
//!   pure.
//! - [`RingListener`] is bound once per process. [`Ring::form`] makes a ring out of a
//!   [`Membership`]; [`handshake`] is how its members recognise each other.
//! - [`Ring`] has the collectives. They block the trainer's thread, and [`Abort`] ends them from
//!   any other.
//! - [`frame`] is every byte on a link. A collective moves its frames itself; one more thread per
//!   rank keeps the links alive and notices a peer's death, also between collectives.
//! - [`nccl`] moves gradients between GPUs, under the ring's eyes.
//! - [`bench`] measures.
//!
//! What it does not know: tensors, gradients' names, gRPC, the coordinator, what a lost peer means
//! for the run. It never retries, never re-forms and never drops a rank: it reports a
//! [`RingError`], and [`RingError::accused`] says whom to report. It does not encrypt: the
//! handshake proves membership and the checksum finds damage, but a network that others can write
//! to needs protection below it.

pub mod bench;
pub mod bf16;
pub mod fixed;
pub mod frame;
pub mod handshake;
pub mod nccl;
pub mod topology;

mod abort;
mod all_reduce;
mod error;
mod form;
mod hatch;
mod keeper;
mod link;
mod plane;
mod ring;
mod shared;
mod silence;
mod sum;
mod tcp;
mod vector;
mod wire;

pub use abort::Abort;
pub use error::RingError;
pub use form::{Membership, RingListener};
pub use link::OnBroken;
pub use ring::{Options, Ring, Tag, Transport};
