//! Frames through memory that two ranks of one host share: no system call while both are awake.
//!
//! The sender makes the memory, seals its size and passes it over a unix socket ([`crate::hatch`]),
//! so nothing of it has a name or outlives the two ranks. It is a queue of [`SLOTS`] frames for one
//! writer and one reader:
//!
//! | bytes              | content                                                                |
//! |--------------------|------------------------------------------------------------------------|
//! | 0..8               | frames published so far; the sender writes it                          |
//! | 64..72             | 1 while the receiver sleeps until a frame is published                 |
//! | 128..136           | frames released so far; the receiver writes it                         |
//! | 192..200           | 1 while the sender sleeps until a frame is released                    |
//! | 256 + 64 i, 44     | slot i: the header of its frame, whose checksum is that of the header  |
//! | 4096 + i P, P      | slot i: the payload, P = [`PAYLOAD_MAX`]                               |
//!
//! Frame n is in slot n mod [`SLOTS`] from its publication to its release. Whoever sleeps polls an
//! event descriptor that the other end writes to; both are passed with the memory.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ftruncate, read, write};

use crate::error::RingError;
use crate::frame::{HEADER_BYTES, Header, PAYLOAD_MAX, Stamp};
use crate::link::Links;
use crate::plane::{Content, Receiving, Sending, Target, Watched};
use crate::tcp::{Inlet, broken};

/// How many frames may be under way.
const SLOTS: usize = 4;

const PUBLISHED: usize = 0;
const READER_SLEEPS: usize = 64;
const RELEASED: usize = 128;
const WRITER_SLEEPS: usize = 192;
const HEADS: usize = 256;
const PAYLOADS: usize = 4096;
const BYTES: usize = PAYLOADS + SLOTS * PAYLOAD_MAX;

/// The descriptors of a memory: itself, what wakes its reader, what wakes its writer.
pub(crate) type Descriptors = [OwnedFd; 3];

/// One end of a shared memory.
#[derive(Debug)]
pub(crate) struct Memory {
    map: MmapRaw,
    wakes_reader: OwnedFd,
    wakes_writer: OwnedFd,
}

impl Memory {
    /// A new memory, and the descriptors that open it elsewhere.
    pub(crate) fn create() -> io::Result<(Self, Descriptors)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"ringmaster", flags)?;
        ftruncate(&file, BYTES as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let descriptors = [file, event()?.into(), event()?.into()];
        let copies = [
            descriptors[0].try_clone()?,
            descriptors[1].try_clone()?,
            descriptors[2].try_clone()?,
        ];
        Ok((Self::open(copies)?, descriptors))
    }

    /// The memory behind descriptors that another process made.
    pub(crate) fn open([file, wakes_reader, wakes_writer]: Descriptors) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        let file = std::fs::File::from(file);
        // A memory that shrinks would end its reader with SIGBUS.
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || file.metadata()?.len() != BYTES as u64 {
            return Err(io::Error::other(
                "a shared memory is not sealed at its size",
            ));
        }
        // Populated, so that the first collective does not pay for its pages.
        let map = MmapOptions::new().len(BYTES).populate().map_raw(&file)?;
        Ok(Self {
            map,
            wakes_reader,
            wakes_writer,
        })
    }

    fn number(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is one of the constants above, all multiples of 8 inside a map that begins
        // on a page and lives as long as `self`; both ends touch these words as atomics only.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn head(&self, slot: usize) -> *mut [u8; HEADER_BYTES] {
        debug_assert!(slot < SLOTS);
        // SAFETY: the result lies inside the map, which ends far behind the last header.
        unsafe { self.map.as_mut_ptr().add(HEADS + 64 * slot).cast() }
    }

    fn payload(&self, slot: usize) -> *mut u8 {
        debug_assert!(slot < SLOTS);
        // SAFETY: the result lies inside the map, with PAYLOAD_MAX bytes behind it.
        unsafe { self.map.as_mut_ptr().add(PAYLOADS + PAYLOAD_MAX * slot) }
    }

    /// Says that `count` frames were published or released, and wakes who sleeps until that.
    fn tell(&self, at: usize, count: u64, sleeps: usize, wakes: &OwnedFd) {
        // Both sides store, then load what the other one stores: one of them sees the other.
        self.number(at).store(count, Ordering::SeqCst);
        if self.number(sleeps).load(Ordering::SeqCst) != 0 {
            self.number(sleeps).store(0, Ordering::SeqCst);
            // Fails only if the counter is full, and then it is readable.
            write(wakes, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Asks to be woken when the number at `at` is not `count` any more; `false` if that is so.
    fn sleep(&self, at: usize, count: u64, sleeps: usize, wakes: &OwnedFd) -> bool {
        // Fails if nobody has written to it since the last time.
        read(wakes, &mut [0; 8]).ok();
        self.number(sleeps).store(1, Ordering::SeqCst);
        self.number(at).load(Ordering::SeqCst) == count
    }
}

/// Data to a successor on this host.
pub(crate) struct SharedSender {
    memory: Memory,
    published: u64,
}

impl SharedSender {
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            memory,
            published: 0,
        }
    }

    /// What the receiver has released when all slots are taken.
    fn full(&self) -> u64 {
        self.published.wrapping_sub(SLOTS as u64)
    }
}

impl Sending for SharedSender {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn send(
        &mut self,
        links: &Links,
        stamp: Stamp,
        content: Content<'_>,
    ) -> Result<bool, RingError> {
        let released = self.memory.number(RELEASED).load(Ordering::Acquire);
        if released == self.full() {
            return Ok(false);
        }
        let slot = (self.published % SLOTS as u64) as usize;
        let length = content.len();
        // SAFETY: PAYLOAD_MAX bytes are there and `length` is at most that; the receiver does not
        // read a slot before it is published, and has released this one.
        let payload = unsafe {
            debug_assert!(length <= PAYLOAD_MAX);
            std::slice::from_raw_parts_mut(self.memory.payload(slot), length.min(PAYLOAD_MAX))
        };
        match content {
            Content::Memory(memory) => payload.copy_from_slice(memory),
            Content::Encode(_, write) => write(payload),
        }
        let head = Header::encode_local(links.generation, stamp, length);
        // SAFETY: as for the payload.
        unsafe { self.memory.head(slot).write(head) };
        self.published += 1;
        self.memory.tell(
            PUBLISHED,
            self.published,
            READER_SLEEPS,
            &self.memory.wakes_reader,
        );
        let bytes = (HEADER_BYTES + length) as u64;
        links.sent.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    /// The socket carries control frames only.
    fn is_between_frames(&self) -> bool {
        true
    }

    fn watch<'a>(&'a self, _: &'a Links) -> Option<Watched<'a>> {
        let wakes = &self.memory.wakes_writer;
        let sleeps = self
            .memory
            .sleep(RELEASED, self.full(), WRITER_SLEEPS, wakes);
        sleeps.then(|| (wakes.as_fd(), PollFlags::POLLIN))
    }
}

/// Data from a predecessor on this host.
pub(crate) struct SharedReceiver {
    control: Inlet,
    memory: Memory,
    released: u64,
}

impl SharedReceiver {
    pub(crate) fn new(control: Inlet, memory: Memory) -> Self {
        Self {
            control,
            memory,
            released: 0,
        }
    }

    /// How many frames are there; more than there are slots if the sender is mad.
    fn waiting(&self) -> u64 {
        let published = self.memory.number(PUBLISHED).load(Ordering::Acquire);
        published.wrapping_sub(self.released)
    }
}

impl Receiving for SharedReceiver {
    fn control(&mut self) -> &mut Inlet {
        &mut self.control
    }

    fn holds_data(&self) -> bool {
        self.waiting() > 0
    }

    fn receive(
        &mut self,
        links: &Links,
        stamp: Stamp,
        target: Target<'_>,
    ) -> Result<bool, RingError> {
        let link = &links.incoming;
        let refuse = |reason: &str| RingError::Protocol {
            rank: link.peer,
            reason: reason.to_owned(),
        };
        match self.waiting() {
            0 if self.control.holds_data() => {
                return Err(refuse("its data came over TCP, not through shared memory"));
            }
            0 => return self.control.nothing_yet(link),
            1.. if self.waiting() > SLOTS as u64 => {
                return Err(refuse("its shared memory has more frames than slots"));
            }
            _ => {}
        }
        let slot = (self.released % SLOTS as u64) as usize;
        // SAFETY: the slot is published, so the sender has written its header and does not write
        // it again before it is released. Any bytes are a valid array.
        let head = unsafe { self.memory.head(slot).read() };
        let length = target.len();
        Header::decode(&head, links.generation)
            .and_then(|header| header.expect(stamp, length).map(|()| header))
            .and_then(|header| header.verify(&head, &[]))
            .map_err(|error| broken(link, &error))?;
        // SAFETY: PAYLOAD_MAX bytes are there and the header allows no more; the sender, which
        // proved that it belongs here, does not write to the slot before it is released.
        let payload = unsafe {
            std::slice::from_raw_parts(
                self.memory.payload(slot).cast_const(),
                length.min(PAYLOAD_MAX),
            )
        };
        match target {
            Target::Memory(memory) => memory.copy_from_slice(payload),
            Target::Read(_, read) => read(payload),
        }
        self.released += 1;
        self.memory.tell(
            RELEASED,
            self.released,
            WRITER_SLEEPS,
            &self.memory.wakes_writer,
        );
        let bytes = (HEADER_BYTES + length) as u64;
        links.received.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn watch<'a>(&'a self, _: &'a Links) -> Option<Watched<'a>> {
        let wakes = &self.memory.wakes_reader;
        let sleeps = self
            .memory
            .sleep(PUBLISHED, self.released, READER_SLEEPS, wakes);
        sleeps.then(|| (wakes.as_fd(), PollFlags::POLLIN))
    }
}
