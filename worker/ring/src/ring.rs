//! [`Ring`]: one rank's end of one generation's collective.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::abort::Abort;
use crate::all_reduce::{all_gather, all_reduce, spread};
use crate::error::RingError;
use crate::form::{Membership, RingListener, connect};
use crate::frame::{Kind, Stamp};
use crate::link::{HEARTBEAT, Link, Links, OnBroken};
use crate::plane::{Plane, Receiving, Sending};
use crate::shared::{Memory, SharedReceiver, SharedSender};
use crate::sum::{Bf16, Exact, F32, I64, Sum};
use crate::tcp::{Inlet, TcpReceiver, TcpSender};
use crate::topology::{predecessor, successor};
use crate::wire::{Port, Wire};

/// What may carry data between two ranks; every rank chooses for the links at both its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory between ranks of one host, TCP between hosts.
    #[default]
    Best,
    /// TCP everywhere.
    Tcp,
}

/// How patient a ring is, and whom it tells when it breaks.
#[derive(Clone)]
pub struct Options {
    /// How long [`Ring::form`] tries, default 10 s. Longer tolerates peers that start late; shorter
    /// reports a missing one sooner.
    pub connect: Duration,
    /// How long a link may carry not one byte at most, default 10 s, at least 500 ms. Heartbeats come
    /// every 250 ms even while a peer computes; a link that was heard regularly is given four times
    /// its longest pause of late, at least 2 s.
    pub silence: Duration,
    /// What carries the data. It changes the speed and no bit.
    pub transport: Transport,
    /// Called once when the ring breaks, also while no collective runs; not for an abort and not
    /// for a peer that leaves on purpose. It runs on a thread of the ring, must not block and must
    /// not drop the ring.
    pub on_broken: Option<OnBroken>,
}

impl Default for Options {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Self {
            connect: ten,
            silence: ten,
            transport: Transport::Best,
            on_broken: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("connect", &self.connect)
            .field("silence", &self.silence)
            .finish_non_exhaustive()
    }
}

/// Which collective a call belongs to: every frame carries it, and a rank that is elsewhere is a
/// protocol error rather than a wrong sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The optimizer step.
    pub step: u64,
    /// The bucket within the step.
    pub bucket: u32,
}

impl Tag {
    /// The collective of one bucket in one step.
    pub fn new(step: u64, bucket: u32) -> Self {
        Self { step, bucket }
    }

    /// What a frame of this collective is about.
    pub(crate) fn stamp(self, kind: Kind, hop: usize, segment: usize) -> Stamp {
        Stamp {
            kind,
            step: self.step,
            bucket: self.bucket,
            hop: hop as u32,
            segment: segment as u32,
        }
    }
}

/// One rank's end of the ring.
///
/// All ranks call the same collectives with the same tags, lengths and roots in the same order,
/// each from one thread. A call blocks until this rank has its result. It has no deadline of its
/// own: it lasts while both neighbours live, and ends when one is lost or silent or when the
/// [`Abort`] is used. **After an error the buffers it was given are unspecified and the ring is
/// over**: the other ranks are told, every later call fails, and the step is computed again in the
/// next generation.
///
/// Dropping a whole ring first delivers what was queued, then says goodbye, which the neighbours
/// see as [`RingError::Left`]; it waits at most 2 s and joins its threads.
pub struct Ring {
    rank: usize,
    world: usize,
    transport: &'static str,
    abort: Abort,
    /// `None` in a world of one.
    wire: Option<Wire>,
}

impl Ring {
    /// Forms the ring of one generation: dials the successor and accepts the predecessor, both
    /// proving the generation's secret. Strangers, wrong secrets and other generations are turned
    /// away while forming goes on. A world of one forms without sockets.
    ///
    /// # Errors
    /// [`RingError::Timeout`] or [`RingError::Refused`] when `options.connect` is over,
    /// [`RingError::Aborted`], [`RingError::Invalid`] for a membership that makes no sense, and
    /// [`RingError::Io`] when the host runs out of something.
    pub fn form(
        listener: &RingListener,
        membership: Membership,
        options: Options,
        abort: &Abort,
    ) -> Result<Self, RingError> {
        abort.check()?;
        let (rank, world) = (membership.rank, membership.world());
        if rank >= world {
            let reason = format!("rank {rank} does not exist in a world of {world}");
            return Err(RingError::invalid(reason));
        }
        if options.silence < 2 * HEARTBEAT {
            let reason = format!("a silence of {:?} is below two heartbeats", options.silence);
            return Err(RingError::invalid(reason));
        }
        if world == 1 {
            return Ok(Self {
                rank,
                world,
                transport: "none",
                abort: abort.clone(),
                wire: None,
            });
        }
        let near = options.transport == Transport::Best;
        let (outgoing, incoming) = connect(listener, &membership, near, options.connect, abort)?;
        let patience = (options.silence, options.connect);
        let plane = plane(outgoing.memory, incoming.memory, patience);
        let transport = plane.sender.name();
        let links = Arc::new(Links::new(
            membership.generation,
            (
                Link::new(successor(rank, world), outgoing.stream)?,
                Link::new(predecessor(rank, world), incoming.stream)?,
            ),
            plane,
            patience,
            options.on_broken,
        )?);
        abort.watch(&links);
        let wire = Some(Wire::start(links)?);
        let generation = membership.generation;
        tracing::debug!(rank, world, generation, transport, "ring formed");
        Ok(Self {
            rank,
            world,
            transport,
            abort: abort.clone(),
            wire,
        })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.world
    }

    /// What carries data to the successor: `tcp`, `shm`, or `none` in a world of one.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// What is wrong with the ring, if anything is: also noticed while no collective runs.
    pub fn health(&self) -> Option<RingError> {
        let links = self.wire.as_ref().and_then(|wire| wire.links.health());
        links.or_else(|| self.abort.check().err())
    }

    /// Bytes written to the successor so far, headers and heartbeats included.
    pub fn bytes_sent(&self) -> u64 {
        self.wire
            .as_ref()
            .map_or(0, |wire| wire.links.sent.load(Ordering::Relaxed))
    }

    /// Bytes read from both neighbours so far, headers and heartbeats included.
    pub fn bytes_received(&self) -> u64 {
        self.wire
            .as_ref()
            .map_or(0, |wire| wire.links.received.load(Ordering::Relaxed))
    }

    /// How long frames were under way from the predecessor so far, from the moment that this rank
    /// wanted one and its first bytes were here to its last byte. All ranks of a ring wait for its
    /// slowest link; this is how the one behind that link is told from the others. 0 with shared
    /// memory, where frames are whole when they are seen.
    pub fn arriving(&self) -> Duration {
        let nanoseconds = |wire: &Wire| wire.links.arriving.load(Ordering::Relaxed);
        Duration::from_nanos(self.wire.as_ref().map_or(0, nanoseconds))
    }

    /// What heartbeats and deadlines took so far, between collectives.
    pub fn keeping(&self) -> Duration {
        let nanoseconds = |wire: &Wire| wire.links.keeping.load(Ordering::Relaxed);
        Duration::from_nanos(self.wire.as_ref().map_or(0, nanoseconds))
    }

    /// Sums fixed point gradients over all ranks and brings the totals back:
    /// `out[i] = (sum of q[i] over ranks) * 2^-40 / divisor`, rounded once, see [`crate::fixed`].
    ///
    /// The bits of `out` depend on neither the world size nor the order of the ranks. `q` and `out`
    /// have equal lengths; `q` is scratch space and unspecified afterwards.
    pub fn all_reduce_exact(
        &mut self,
        tag: Tag,
        q: &mut [i64],
        out: &mut [f32],
        divisor: f64,
    ) -> Result<(), RingError> {
        if q.len() != out.len() {
            let reason = format!("{} sums for {} results", q.len(), out.len());
            return Err(RingError::invalid(reason));
        }
        self.all_reduce(tag, &mut Exact { q, out, divisor })
    }

    /// Sums `values` over all ranks. All ranks end with the same bits, which depend on the world.
    pub fn all_reduce_f32(&mut self, tag: Tag, values: &mut [f32]) -> Result<(), RingError> {
        self.all_reduce(tag, &mut F32(values))
    }

    /// Sums `values` over all ranks with bfloat16 on the wire and `f32` additions. All ranks end
    /// with the same bits, rounded to bfloat16, which depend on the world.
    pub fn all_reduce_bf16(&mut self, tag: Tag, values: &mut [f32]) -> Result<(), RingError> {
        self.all_reduce(tag, &mut Bf16(values))
    }

    /// Sums `values` over all ranks, wrapping around.
    pub fn all_reduce_i64(&mut self, tag: Tag, values: &mut [i64]) -> Result<(), RingError> {
        self.all_reduce(tag, &mut I64(values))
    }

    /// Fills in what the other ranks have: `blocks` is one block per rank, in rank order and all of
    /// one length, of which this rank's holds its own bytes.
    pub fn all_gather(&mut self, tag: Tag, blocks: &mut [u8]) -> Result<(), RingError> {
        if !blocks.len().is_multiple_of(self.world) {
            let (bytes, world) = (blocks.len(), self.world);
            let reason = format!("{bytes} bytes are not one block for each of {world} ranks");
            return Err(RingError::invalid(reason));
        }
        let place = (self.rank, self.world);
        self.guarded(|port| all_gather(port, place, (Kind::Gather, tag), blocks))
    }

    /// Every rank's `value`, bit for bit, in rank order.
    pub fn all_gather_f64(&mut self, tag: Tag, value: f64) -> Result<Vec<f64>, RingError> {
        let mut blocks = vec![0; self.world * size_of::<f64>()];
        let (words, _) = blocks.as_chunks_mut();
        words[self.rank] = value.to_le_bytes();
        self.all_gather(tag, &mut blocks)?;
        let (words, _) = blocks.as_chunks();
        Ok(words.iter().map(|word| f64::from_le_bytes(*word)).collect())
    }

    /// Copies `bytes` of rank `root` to all others. All ranks pass equal lengths.
    pub fn broadcast(&mut self, tag: Tag, root: usize, bytes: &mut [u8]) -> Result<(), RingError> {
        self.spread(tag, &[root], bytes)
    }

    /// Copies `bytes` to every rank that is not one of `sources`, which all have the same: each of
    /// them serves the ranks between itself and the next. All ranks pass equal lengths and sources.
    pub fn spread(
        &mut self,
        tag: Tag,
        sources: &[usize],
        bytes: &mut [u8],
    ) -> Result<(), RingError> {
        let mut is_source = vec![false; self.world];
        for rank in sources {
            let Some(is_source) = is_source.get_mut(*rank) else {
                let reason = format!("rank {rank} does not exist in a world of {}", self.world);
                return Err(RingError::invalid(reason));
            };
            *is_source = true;
        }
        let place = (self.rank, self.world);
        self.guarded(|port| spread(port, place, tag, &is_source, bytes))
    }

    /// Returns once every rank has called it.
    pub fn barrier(&mut self, tag: Tag) -> Result<(), RingError> {
        // What arrives in the last hop was sent by a rank that had heard of all others.
        self.all_gather(tag, &mut [])
    }

    /// The links, for whoever waits for something else while they watch; `None` in a world of one.
    pub(crate) fn links(&self) -> Option<&Arc<Links>> {
        self.wire.as_ref().map(|wire| &wire.links)
    }

    fn all_reduce<S: Sum>(&mut self, tag: Tag, values: &mut S) -> Result<(), RingError> {
        let place = (self.rank, self.world);
        if self.world == 1 {
            self.abort.check()?;
            values.complete(0..values.len());
            return Ok(());
        }
        self.guarded(|port| all_reduce(port, place, tag, values))
    }

    /// Runs a collective; if it fails, the whole ring does, so that no rank waits for this one.
    pub(crate) fn guarded(
        &mut self,
        collective: impl FnOnce(&mut Port<'_>) -> Result<(), RingError>,
    ) -> Result<(), RingError> {
        self.abort.check()?;
        let Some(wire) = &self.wire else {
            return Ok(());
        };
        wire.links.check()?;
        // The links are let go of before they are told.
        let done = collective(&mut wire.port());
        done.map_err(|error| {
            wire.links.await_news(&error);
            wire.links.fail(error.clone());
            // What broke the ring first, where this error is but what that looks like from here.
            wire.links.check().err().unwrap_or(error)
        })
    }
}

/// The transport of each direction: the memory that is shared, else the link's socket.
fn plane(to: Option<Memory>, from: Option<Memory>, patience: (Duration, Duration)) -> Plane {
    let inlet = Inlet::new(patience);
    let sender: Box<dyn Sending> = match to {
        Some(memory) => Box::new(SharedSender::new(memory)),
        None => Box::new(TcpSender::new()),
    };
    let receiver: Box<dyn Receiving> = match from {
        Some(memory) => Box::new(SharedReceiver::new(inlet, memory)),
        None => Box::new(TcpReceiver::new(inlet)),
    };
    Plane::new(sender, receiver)
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}
