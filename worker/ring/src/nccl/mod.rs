//! NCCL for ranks whose gradients lie on GPUs: the TCP ring watches, NCCL moves.
//!
//! Copying a bucket to the host, around the ring and back costs more than the sum itself, and NCCL
//! knows every fabric between GPUs. What it does not do well is fail: a peer's death is a kernel
//! that never ends. So the TCP ring of the generation stays, formed and authenticated as ever, and
//! its heartbeats decide who lives. A wait for a device ends as soon as that ring is broken or
//! aborted, and every failure of NCCL breaks that ring, so that nobody waits for this rank.
//!
//! ```text
//!             forming                                      each bucket
//!   vote ---> id ---> join <--> vote, until all     enqueue ---> wait --+--> done
//!   [---------- TCP ring ----------]  or none           |      polls the device,
//!                      [--- NCCL ---]                 NCCL     NCCL and the TCP ring
//! ```
//!
//! **The unique id goes around the TCP ring**, not through the coordinator. It is an address to
//! connect to and a number that admits whoever names it, so who has it can take part in the sums.
//! On the ring only ranks hear it that have proven the generation's secret; it is made when
//! everybody is ready to use it, is born and forgotten with one generation, and so there is nothing
//! for the coordinator to carry, store, fence or make anew after a restart. NCCL's own connections
//! are neither encrypted nor authenticated beyond that number: a network that others can write to
//! needs protection below it, as for the ring itself.
//!
//! **All ranks or none.** A rank without a GPU, a driver or the library says so in a vote, and then
//! everybody uses the TCP ring, which is always there. So does everybody if one rank fails to join.
//!
//! - [`layout`] is how a bucket lies in memory when each rank owns a part of it. Pure.
//! - [`bootstrap`] is the votes, [`supervise`] the waits. Neither knows CUDA; the tests use both
//!   without.
//! - With feature `nccl`: `Nccl` has the collectives, `Library` the functions of libnccl, loaded at
//!   run time, and `self_check` tries both on one device.
//!
//! What it does not do: order itself against other streams. The streams that compute the gradients
//! are not exposed to us, so the caller synchronises its device before it enqueues an operation,
//! and waits before it touches the memory again. Nor does it split, group or retry anything, keep a
//! communicator across generations, check what arrives against a sum of the bytes, or promise the
//! bits of a floating point sum: NCCL chooses the order of additions, and integers do not care.

pub mod bootstrap;
pub mod layout;
pub mod supervise;

#[cfg(feature = "nccl")]
mod check;
#[cfg(feature = "nccl")]
mod collectives;
#[cfg(feature = "nccl")]
mod communicator;
#[cfg(feature = "nccl")]
mod device;
#[cfg(feature = "nccl")]
mod library;
#[cfg(feature = "nccl")]
mod slice;

#[cfg(feature = "nccl")]
pub use check::self_check;
#[cfg(feature = "nccl")]
pub use collectives::Nccl;
#[cfg(feature = "nccl")]
pub use library::{Library, LibraryError};
#[cfg(feature = "nccl")]
pub use slice::DeviceSlice;
