//! The frame layer: every byte that follows the handshake on a link. It knows no policy.
//!
//! A frame is a header of 44 bytes and a payload. Integers are little endian.
//!
//! | bytes  | field      | meaning                                                            |
//! |--------|------------|--------------------------------------------------------------------|
//! | 0..4   | magic      | `RMRG`                                                             |
//! | 4      | version    | [`VERSION`]                                                        |
//! | 5      | kind       | [`Kind`]                                                           |
//! | 6..8   | reserved   | 0                                                                  |
//! | 8..16  | generation | the membership this frame belongs to                               |
//! | 16..24 | step       | [`Stamp::step`]                                                    |
//! | 24..28 | bucket     | [`Stamp::bucket`]                                                  |
//! | 28..32 | hop        | [`Stamp::hop`]; in a `Leave`, the rank that is accused or 2^32 - 1 |
//! | 32..36 | segment    | [`Stamp::segment`]                                                 |
//! | 36..40 | length     | payload bytes, at most [`PAYLOAD_MAX`]; 0 unless the kind is data  |
//! | 40..44 | checksum   | CRC-32 (IEEE) of bytes 0..40, then the payload                     |
//!
//! The checksum finds damage, not forgery: who may speak at all is settled by the handshake.
//! [`Header::decode`] judges a header before a byte of its payload is read, and a receiver only
//! ever reads into memory that it holds already.
//!
//! Versions: 1, the first; 2, sums of a few bytes are exchanged whole; 3, long sums move in blocks.

use crc_fast::{CrcAlgorithm, Digest};

/// The version this build speaks. A peer of another version is refused.
pub const VERSION: u8 = 3;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 44;

/// The longest payload. A chunk moves in segments of this size, so that receiving, adding and
/// passing on overlap, and the segment being worked on stays in a core's cache.
pub const PAYLOAD_MAX: usize = 256 * 1024;

const MAGIC: [u8; 4] = *b"RMRG";
const CHECKED: usize = 40;
const NOBODY: u32 = u32::MAX;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The sender lives. Carries nothing.
    Heartbeat = 0,
    /// The last frame of a link. Says whom the sender accuses, if it leaves because of a peer.
    Leave = 1,
    /// A segment of an exact all-reduce: `i64` partial sums, then `f32` totals.
    Exact = 2,
    /// A segment of an `f32` all-reduce.
    F32 = 3,
    /// A segment of a bfloat16 all-reduce.
    Bf16 = 4,
    /// A segment of an `i64` all-reduce.
    I64 = 5,
    /// A segment of a broadcast: bytes.
    Broadcast = 6,
    /// A segment of an all-gather: bytes.
    Gather = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Bf16, Broadcast, Exact, F32, Gather, Heartbeat, I64, Leave};
        [Heartbeat, Leave, Exact, F32, Bf16, I64, Broadcast, Gather]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether frames of this kind carry a payload for the trainer.
    pub fn is_data(self) -> bool {
        !matches!(self, Self::Heartbeat | Self::Leave)
    }
}

/// What a frame is about: equal on both ends, or the ranks do not do the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What the frame is for.
    pub kind: Kind,
    /// The optimizer step of the collective.
    pub step: u64,
    /// The bucket of the collective within the step.
    pub bucket: u32,
    /// The hop within the collective.
    pub hop: u32,
    /// The segment within the hop.
    pub segment: u32,
}

/// The decoded first 44 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The membership this frame belongs to.
    pub generation: u64,
    /// What the frame is about.
    pub stamp: Stamp,
    /// Payload bytes.
    pub length: u32,
    checksum: u32,
}

/// Why bytes are not a frame of this link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are something else.
    #[error("a frame starts with {0:?}, not with RMRG")]
    Magic([u8; 4]),
    /// The peer speaks another version.
    #[error("a frame has version {0}, this build speaks {VERSION}")]
    Version(u8),
    /// No kind has this number, or the reserved bytes are used.
    #[error("a frame has the unknown kind {kind} with reserved bytes {reserved}")]
    Kind {
        /// Byte 5.
        kind: u8,
        /// Bytes 6..8.
        reserved: u16,
    },
    /// The frame is of another membership.
    #[error("a frame is of generation {found}, this ring is of {expected}")]
    Generation {
        /// This ring's generation.
        expected: u64,
        /// The frame's generation.
        found: u64,
    },
    /// The payload is longer than any may be.
    #[error("a frame announces {found} bytes where at most {limit} are allowed")]
    Length {
        /// The limit for the frame's kind.
        limit: u32,
        /// What the frame announces.
        found: u32,
    },
    /// The frame belongs to another part of the run than the receiver has come to.
    #[error(
        "expected {} bytes of {:?}, received {} of {:?}",
        .expected.0, .expected.1, .found.0, .found.1
    )]
    Other {
        /// The receiver's next frame: bytes and stamp.
        expected: (usize, Stamp),
        /// The same of the frame that came.
        found: (u32, Stamp),
    },
    /// The bytes were damaged on the way.
    #[error("a frame of {0} bytes fails its checksum")]
    Checksum(u32),
}

impl Header {
    /// The header of a frame of `generation` that carries `payload`, at most [`PAYLOAD_MAX`] bytes.
    pub fn encode(generation: u64, stamp: Stamp, payload: &[u8]) -> [u8; HEADER_BYTES] {
        Self::seal(generation, stamp, payload.len(), payload)
    }

    /// The same for a payload of `length` bytes that cannot be damaged on its way, because it stays
    /// in this host's memory: the checksum is that of the header alone.
    pub fn encode_local(generation: u64, stamp: Stamp, length: usize) -> [u8; HEADER_BYTES] {
        Self::seal(generation, stamp, length, &[])
    }

    fn seal(generation: u64, stamp: Stamp, length: usize, summed: &[u8]) -> [u8; HEADER_BYTES] {
        debug_assert!(length <= PAYLOAD_MAX);
        let mut head = [0; HEADER_BYTES];
        head[0..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&[VERSION, stamp.kind as u8, 0, 0]);
        head[8..16].copy_from_slice(&generation.to_le_bytes());
        head[16..24].copy_from_slice(&stamp.step.to_le_bytes());
        head[24..28].copy_from_slice(&stamp.bucket.to_le_bytes());
        head[28..32].copy_from_slice(&stamp.hop.to_le_bytes());
        head[32..36].copy_from_slice(&stamp.segment.to_le_bytes());
        head[36..40].copy_from_slice(&(length as u32).to_le_bytes());
        let checksum = checksum(&head[..CHECKED], summed);
        head[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// Reads a header and refuses what does not belong on a link of `generation`.
    pub fn decode(head: &[u8; HEADER_BYTES], generation: u64) -> Result<Self, FrameError> {
        let magic = bytes(head, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let [version, number, r0, r1] = bytes(head, 4);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let reserved = u16::from_le_bytes([r0, r1]);
        let kind = Kind::from_byte(number)
            .filter(|_| reserved == 0)
            .ok_or(FrameError::Kind {
                kind: number,
                reserved,
            })?;
        let found = u64::from_le_bytes(bytes(head, 8));
        if found != generation {
            return Err(FrameError::Generation {
                expected: generation,
                found,
            });
        }
        let length = u32::from_le_bytes(bytes(head, 36));
        let limit = if kind.is_data() {
            PAYLOAD_MAX as u32
        } else {
            0
        };
        if length > limit {
            return Err(FrameError::Length {
                limit,
                found: length,
            });
        }
        let stamp = Stamp {
            kind,
            step: u64::from_le_bytes(bytes(head, 16)),
            bucket: u32::from_le_bytes(bytes(head, 24)),
            hop: u32::from_le_bytes(bytes(head, 28)),
            segment: u32::from_le_bytes(bytes(head, 32)),
        };
        Ok(Self {
            generation,
            stamp,
            length,
            checksum: u32::from_le_bytes(bytes(head, CHECKED)),
        })
    }

    /// Refuses a frame that is not the one its receiver has come to.
    pub fn expect(&self, stamp: Stamp, length: usize) -> Result<(), FrameError> {
        if self.stamp == stamp && self.length as usize == length {
            return Ok(());
        }
        Err(FrameError::Other {
            expected: (length, stamp),
            found: (self.length, self.stamp),
        })
    }

    /// Checks the payload, and with it the header's own bytes.
    pub fn verify(&self, head: &[u8; HEADER_BYTES], payload: &[u8]) -> Result<(), FrameError> {
        if checksum(&head[..CHECKED], payload) == self.checksum {
            Ok(())
        } else {
            Err(FrameError::Checksum(self.length))
        }
    }

    /// The rank a `Leave` frame accuses.
    pub fn accused(&self) -> Option<usize> {
        (self.stamp.hop != NOBODY).then_some(self.stamp.hop as usize)
    }
}

/// A whole heartbeat.
pub fn heartbeat(generation: u64) -> [u8; HEADER_BYTES] {
    control(generation, Kind::Heartbeat, 0)
}

/// A whole farewell, naming the rank that made the sender leave.
pub fn leave(generation: u64, accused: Option<usize>) -> [u8; HEADER_BYTES] {
    let accused = accused.and_then(|rank| u32::try_from(rank).ok());
    control(generation, Kind::Leave, accused.unwrap_or(NOBODY))
}

fn control(generation: u64, kind: Kind, hop: u32) -> [u8; HEADER_BYTES] {
    let stamp = Stamp {
        kind,
        step: 0,
        bucket: 0,
        hop,
        segment: 0,
    };
    Header::encode(generation, stamp, &[])
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    digest.update(head);
    digest.update(payload);
    // 32 bits of a type that holds every kind of CRC.
    digest.finalize() as u32
}

/// `N` bytes from `offset`; the caller stays inside.
fn bytes<const N: usize>(from: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| from[offset + i])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn frame(generation: u64, stamp: Stamp, payload: &[u8]) -> Vec<u8> {
        [&Header::encode(generation, stamp, payload), payload].concat()
    }

    /// What a receiver does: judge the header, then the payload.
    fn open(frame: &[u8], generation: u64) -> Result<Header, FrameError> {
        let (head, payload) = frame.split_first_chunk().unwrap();
        let header = Header::decode(head, generation)?;
        header.verify(head, &payload[..payload.len().min(header.length as usize)])?;
        Ok(header)
    }

    fn stamps() -> impl Strategy<Value = Stamp> {
        let kinds = [
            Kind::Exact,
            Kind::F32,
            Kind::Bf16,
            Kind::I64,
            Kind::Broadcast,
            Kind::Gather,
        ];
        (
            prop::sample::select(kinds.to_vec()),
            any::<(u64, u32, u32, u32)>(),
        )
            .prop_map(|(kind, (step, bucket, hop, segment))| Stamp {
                kind,
                step,
                bucket,
                hop,
                segment,
            })
    }

    proptest! {
        #[test]
        fn a_frame_arrives_as_it_was_sent(stamp in stamps(), generation: u64, payload: Vec<u8>) {
            let header = open(&frame(generation, stamp, &payload), generation).unwrap();
            prop_assert_eq!(header.stamp, stamp);
            prop_assert_eq!(header.length as usize, payload.len());
        }

        #[test]
        fn no_single_flipped_bit_is_accepted(
            stamp in stamps(), payload in prop::collection::vec(any::<u8>(), 0..64), at: usize,
        ) {
            let mut frame = frame(7, stamp, &payload);
            let at = at % (frame.len() * 8);
            frame[at / 8] ^= 1 << (at % 8);
            prop_assert!(open(&frame, 7).is_err());
        }

        #[test]
        fn a_frame_of_another_generation_is_refused(stamp in stamps(), ours: u64, theirs: u64) {
            prop_assume!(ours != theirs);
            let refused = FrameError::Generation { expected: ours, found: theirs };
            prop_assert_eq!(open(&frame(theirs, stamp, b"data"), ours), Err(refused));
        }

        #[test]
        fn a_length_beyond_the_limit_is_refused_by_its_header(
            stamp in stamps(), found in PAYLOAD_MAX as u32 + 1..,
        ) {
            let mut frame = frame(1, stamp, &[]);
            frame[36..40].copy_from_slice(&found.to_le_bytes());
            let limit = PAYLOAD_MAX as u32;
            prop_assert_eq!(open(&frame, 1), Err(FrameError::Length { limit, found }));
        }
    }

    #[test]
    fn a_farewell_names_whom_it_accuses() {
        for accused in [None, Some(0), Some(41)] {
            let header = open(&leave(3, accused), 3).unwrap();
            assert_eq!(
                (header.stamp.kind, header.accused()),
                (Kind::Leave, accused)
            );
        }
        assert_eq!(open(&heartbeat(3), 3).unwrap().stamp.kind, Kind::Heartbeat);
    }
}
