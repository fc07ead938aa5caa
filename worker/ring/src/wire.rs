//! The I/O threads of a rank and the bounded queues between them and the trainer.
//!
//! ```text
//! trainer --outbound--> sender thread ----> successor        heartbeats when idle
//!         <---empty----                                      buffers come back
//! trainer <--inbound--- receiver thread <-- predecessor
//!         ----read---->                                      buffers go back
//!                       pulse thread <----- successor        hears its heartbeats
//!                                    -----> predecessor      sends ours
//! ```
//!
//! All buffers are allocated when the ring forms and circulate; a collective allocates nothing.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::RingError;
use crate::frame::{self, HEADER_BYTES, Header, Kind, PAYLOAD_MAX, Stamp};
use crate::link::{HEARTBEAT, Links, Reader};

/// How many segments a trainer sends ahead of what it has received.
pub(crate) const WINDOW: usize = 4;

/// Segments that wait for the trainer. Larger than [`WINDOW`] by more than the few segments by
/// which neighbours' chunks may differ: if every rank were blocked sending, all these queues would
/// be full, more than the windows let anybody send. So some rank can always go on.
const INBOUND: usize = WINDOW + 6;

/// Segments that wait for the successor.
const OUTBOUND: usize = WINDOW;

/// How long a closing ring waits for its successor to take what is queued.
const LINGER: Duration = Duration::from_secs(2);

type Buffer = Box<[u8]>;

struct Outbound {
    stamp: Stamp,
    length: usize,
    frame: Buffer,
}

struct Inbound {
    header: Header,
    payload: Buffer,
}

/// The trainer's ends of the queues, and the threads behind them.
pub(crate) struct Wire {
    pub(crate) links: Arc<Links>,
    queues: Option<Queues>,
    /// Ends when the sender and the pulse thread have.
    delivered: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

struct Queues {
    outbound: SyncSender<Outbound>,
    empty: Receiver<Buffer>,
    inbound: Receiver<Inbound>,
    read: SyncSender<Buffer>,
}

impl Wire {
    pub(crate) fn start(links: Arc<Links>) -> Result<Self, RingError> {
        let (outbound, to_send) = sync_channel(OUTBOUND);
        let (sent, empty) = sync_channel(OUTBOUND);
        let (arrived, inbound) = sync_channel(INBOUND);
        let (read, to_fill) = sync_channel(INBOUND);
        for _ in 0..OUTBOUND {
            sent.send(buffer(HEADER_BYTES + PAYLOAD_MAX)).ok();
        }
        for _ in 0..INBOUND {
            read.send(buffer(PAYLOAD_MAX)).ok();
        }
        let (deliver, delivered) = sync_channel::<()>(0);
        let queues = Some(Queues {
            outbound,
            empty,
            inbound,
            read,
        });
        let mut wire = Self {
            links,
            queues,
            delivered,
            threads: Vec::with_capacity(3),
        };
        let held = deliver.clone();
        wire.spawn("ring-send", move |links| {
            send(links, &to_send, &sent);
            drop(held);
        })?;
        wire.spawn("ring-receive", move |links| {
            receive(links, &arrived, &to_fill)
        })?;
        wire.spawn("ring-pulse", move |links| {
            pulse(links);
            drop(deliver);
        })?;
        Ok(wire)
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce(&Links) + Send + 'static,
    ) -> Result<(), RingError> {
        let links = self.links.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(&links));
        self.threads
            .push(thread.map_err(|error| RingError::io("start a ring thread", error))?);
        Ok(())
    }

    /// Queues one frame of `length` bytes that `encode` writes.
    pub(crate) fn send(
        &self,
        stamp: Stamp,
        length: usize,
        encode: impl FnOnce(&mut [u8]),
    ) -> Result<(), RingError> {
        self.links.check()?;
        let queues = self.queues()?;
        let stopped = |_| self.links.verdict(self.links.outgoing.peer);
        let mut frame = queues.empty.recv().map_err(stopped)?;
        encode(&mut frame[HEADER_BYTES..HEADER_BYTES + length]);
        let full = Outbound {
            stamp,
            length: HEADER_BYTES + length,
            frame,
        };
        queues
            .outbound
            .send(full)
            .map_err(|_| self.links.verdict(self.links.outgoing.peer))
    }

    /// Waits for the next frame, refuses any but the one that the plan says, and hands over its
    /// `length` bytes.
    pub(crate) fn receive(
        &self,
        stamp: Stamp,
        length: usize,
        decode: impl FnOnce(&[u8]),
    ) -> Result<(), RingError> {
        let queues = self.queues()?;
        let peer = self.links.incoming.peer;
        let Inbound { header, payload } = queues
            .inbound
            .recv()
            .map_err(|_| self.links.verdict(peer))?;
        if header.stamp != stamp || header.length as usize != length {
            return Err(RingError::Protocol {
                rank: peer,
                reason: format!(
                    "expected {length} bytes of {stamp:?}, received {} of {:?}",
                    header.length, header.stamp
                ),
            });
        }
        decode(&payload[..length]);
        // The receiver thread may have ended after its last frame; the frame stays valid.
        queues.read.send(payload).ok();
        Ok(())
    }

    fn queues(&self) -> Result<&Queues, RingError> {
        self.queues
            .as_ref()
            .ok_or_else(|| RingError::invalid("the ring is closed"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let whole = self.links.leave();
        self.queues = None;
        if whole {
            // Times out only if the successor is alive but takes nothing.
            self.delivered.recv_timeout(LINGER).ok();
        }
        self.links.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(generation = self.links.generation, "a ring thread panicked");
            }
        }
    }
}

fn buffer(bytes: usize) -> Buffer {
    vec![0; bytes].into_boxed_slice()
}

/// Seals and writes what the trainer queues; heartbeats in between; a farewell at the end.
fn send(links: &Links, queue: &Receiver<Outbound>, empty: &SyncSender<Buffer>) {
    let write = |frame: &[u8]| {
        links.sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        links.outgoing.write(frame)
    };
    loop {
        match queue.recv_timeout(HEARTBEAT) {
            Ok(Outbound {
                stamp,
                length,
                mut frame,
            }) => {
                Header::seal(&mut frame[..length], links.generation, stamp);
                if !write(&frame[..length]) {
                    break;
                }
                // A closing trainer takes no buffers back, but what it queued still goes out.
                empty.send(frame).ok();
            }
            Err(RecvTimeoutError::Timeout) => {
                if !write(&frame::heartbeat(links.generation)) {
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                write(&frame::leave(links.generation, None));
                break;
            }
        }
    }
    links.outgoing.shutdown(Shutdown::Write);
}

/// Reads the predecessor's frames into the trainer's queue.
fn receive(links: &Links, arrived: &SyncSender<Inbound>, to_fill: &Receiver<Buffer>) {
    let ended = receive_until_over(links, arrived, to_fill);
    // Tells a predecessor that left that everything was read.
    links.incoming.shutdown(Shutdown::Both);
    if let Err(error) = ended {
        links.fail(error);
    }
}

/// `Ok` when the predecessor left or this rank closes.
fn receive_until_over(
    links: &Links,
    arrived: &SyncSender<Inbound>,
    to_fill: &Receiver<Buffer>,
) -> Result<(), RingError> {
    let mut reader = Reader::new(links, &links.incoming);
    loop {
        let Some(header) = reader.header()? else {
            continue;
        };
        match header.stamp.kind {
            Kind::Heartbeat => {}
            Kind::Leave => {
                links.departed(links.incoming.peer);
                return Ok(());
            }
            _ => {
                // Blocks while the trainer computes; the peer waits for us then, not we for it.
                let Ok(mut payload) = to_fill.recv() else {
                    return Ok(());
                };
                reader.listen_again();
                reader.payload(&header, &mut payload[..header.length as usize])?;
                if arrived.send(Inbound { header, payload }).is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Keeps the back direction of both links alive.
fn pulse(links: &Links) {
    let mut reader = Reader::new(links, &links.outgoing);
    let mut beat = Instant::now();
    loop {
        match reader.header() {
            Ok(Some(header)) if header.stamp.kind == Kind::Leave => {
                links.departed(links.outgoing.peer);
                break;
            }
            Ok(Some(header)) if header.stamp.kind.is_data() => {
                let reason = "data came back from a successor".to_owned();
                links.fail(RingError::Protocol {
                    rank: links.outgoing.peer,
                    reason,
                });
                return;
            }
            Ok(_) => {}
            Err(error) => return links.fail(error),
        }
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            links.incoming.write(&frame::heartbeat(links.generation));
        }
    }
    // The successor is gone, but the predecessor may still need this rank.
    while links.pause() {
        links.incoming.write(&frame::heartbeat(links.generation));
    }
}
