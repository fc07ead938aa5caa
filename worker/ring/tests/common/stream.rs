//! Any bytes as the conduct of a peer that has proven its membership: for tests and for a fuzzer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Instant;

use ringmaster_ring::frame::{HEADER_BYTES, Kind, PAYLOAD_MAX, Stamp, heartbeat, leave};
use ringmaster_ring::{Abort, Options, Ring, RingError, Tag};

use crate::common::{LATE, MARGIN, RawPeer, drain, listen, membership, seal};

/// Elements of the sum that the ring under test computes again and again.
const ELEMENTS: usize = 100;

/// What a peer did.
#[derive(Debug, Default)]
struct Conduct {
    /// Frames that the ring's sums asked for, before anything forward that it refuses.
    right: usize,
    /// Something was sent forward that a ring refuses.
    astray: bool,
    /// The same in any direction.
    wrong: bool,
}

/// Plays `script` to a ring of two that sums until it breaks. Panics unless every sum is right, no
/// more sums succeed than there were frames for, and the end is an error that fits, in time.
pub(crate) fn check(script: &[u8]) {
    let (listener, peer) = (listen(), RawPeer::new(1));
    let addrs = [listener.local_addr(), peer.address()];
    let options = Options {
        connect: LATE,
        silence: 2 * LATE,
        ..Options::default()
    };
    let (abort, started) = (Abort::new(), Instant::now());
    let (sums, error, conduct) = thread::scope(|scope| {
        let playing = scope.spawn(|| play(peer.join(&addrs, 1), script));
        let mut ring = Ring::form(&listener, membership(&addrs, 1, 0), options, &abort).unwrap();
        let (sums, error) = sum_until_broken(&mut ring);
        drop(ring);
        (sums, error, playing.join().unwrap())
    });
    assert!(started.elapsed() < MARGIN, "{conduct:?}: {error}");
    match conduct.wrong {
        false => assert_eq!((sums, error), (conduct.right, RingError::Left { rank: 1 })),
        true => {
            assert!(sums <= conduct.right, "{sums} sums of {conduct:?}");
            let named = matches!(
                error,
                RingError::PeerLost { .. } | RingError::Left { .. } | RingError::Protocol { .. }
            );
            assert!(named, "{conduct:?}: {error}");
        }
    }
}

fn sum_until_broken(ring: &mut Ring) -> (usize, RingError) {
    for step in 0.. {
        let mut values = [1.0; ELEMENTS];
        match ring.all_reduce_f32(Tag::new(step as u64, 0), &mut values) {
            Ok(()) => assert_eq!(values, [3.0; ELEMENTS], "step {step}"),
            Err(error) => return (step, error),
        }
    }
    unreachable!()
}

/// Reads the script byte by byte; past its end there are zeros.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }
}

/// Does what the script says, leaves in order if nothing was wrong, and hears the ring out.
fn play((mut to_us, mut from_us): (TcpStream, TcpStream), script: &[u8]) -> Conduct {
    let (mut script, mut conduct) = (Script(script), Conduct::default());
    let mut pending = Vec::new();
    while !script.0.is_empty() {
        let act = script.byte();
        let harmless = act % 16 < 8;
        let frame = match act % 16 {
            0..4 => next_of_sum(conduct.right as u64),
            4..6 => heartbeat(1).to_vec(),
            6..8 => Vec::new(),
            8 => damaged(next_of_sum(conduct.right as u64), script.bytes()),
            9 => damaged(heartbeat(1).to_vec(), script.bytes()),
            10 => any_frame(&mut script),
            11 => announcing(u32::from_le_bytes(script.bytes())),
            12 => leave(1, Some(usize::from(script.byte()))).to_vec(),
            13 => script.bytes::<7>().to_vec(),
            14 => cut(next_of_sum(conduct.right as u64), script.byte()),
            _ => heartbeat(2 + u64::from(script.byte())).to_vec(),
        };
        conduct.right += usize::from(act % 16 < 4 && !conduct.astray);
        conduct.wrong |= !harmless;
        // What the ring does not like it answers by closing, so writes may fail.
        if act & 16 != 0 && act % 16 >= 4 {
            from_us.write_all(&frame).ok();
            continue;
        }
        conduct.astray |= !harmless;
        pending.extend(frame);
        // Cuts anywhere: reads do not arrive as frames were written.
        let now = if act & 32 != 0 {
            pending.len()
        } else {
            pending.len() / 2
        };
        to_us.write_all(&pending[..now]).ok();
        pending.drain(..now);
    }
    to_us.write_all(&pending).ok();
    if !conduct.wrong {
        // A rank leaves once it has its results, and those need what the others sent.
        (0..conduct.right).for_each(|_| take_frame_of_sum(&mut from_us));
        to_us.write_all(&leave(1, None)).ok();
        from_us.write_all(&leave(1, None)).ok();
    }
    to_us.shutdown(Shutdown::Write).ok();
    from_us.shutdown(Shutdown::Write).ok();
    drain(from_us);
    conduct
}

/// Reads up to the end of the next frame of data.
fn take_frame_of_sum(from_us: &mut TcpStream) {
    let mut frame = [0; HEADER_BYTES + 4 * ELEMENTS];
    let (head, payload) = frame.split_at_mut(HEADER_BYTES);
    from_us.read_exact(head).unwrap();
    while head == heartbeat(1) {
        from_us.read_exact(head).unwrap();
    }
    from_us.read_exact(payload).unwrap();
}

/// The frame that the ring's next sum needs.
fn next_of_sum(step: u64) -> Vec<u8> {
    let stamp = Stamp {
        kind: Kind::F32,
        step,
        bucket: 0,
        hop: 0,
        segment: 0,
    };
    let payload = 2_f32.to_le_bytes().repeat(ELEMENTS);
    let mut frame = [vec![0; HEADER_BYTES], payload].concat();
    seal(&mut frame, stamp);
    frame
}

/// One bit is not as it was.
fn damaged(mut frame: Vec<u8>, at: [u8; 2]) -> Vec<u8> {
    let at = usize::from(u16::from_le_bytes(at)) % (frame.len() * 8);
    frame[at / 8] ^= 1 << (at % 8);
    frame
}

/// A whole frame that nobody asked for.
fn any_frame(script: &mut Script<'_>) -> Vec<u8> {
    let kinds = [
        Kind::Exact,
        Kind::F32,
        Kind::Bf16,
        Kind::I64,
        Kind::Broadcast,
        Kind::Gather,
    ];
    let stamp = Stamp {
        kind: kinds[usize::from(script.byte()) % kinds.len()],
        // Never the step of a sum that the ring reaches.
        step: u64::MAX - u64::from(script.byte()),
        bucket: u32::from_le_bytes(script.bytes()),
        hop: script.byte().into(),
        segment: script.byte().into(),
    };
    let mut frame = vec![0; HEADER_BYTES + usize::from(script.byte()) * 4];
    seal(&mut frame, stamp);
    frame
}

/// A header that promises so many bytes, of which none come.
fn announcing(length: u32) -> Vec<u8> {
    let mut frame = next_of_sum(0);
    frame.truncate(HEADER_BYTES);
    // No length that is right, and often one beyond all limits.
    let length = if length.is_multiple_of(4) {
        length % PAYLOAD_MAX as u32
    } else {
        length
    };
    frame[36..40].copy_from_slice(&(length | 1).to_le_bytes());
    frame
}

/// The beginning of a frame: what follows is taken for the rest.
fn cut(mut frame: Vec<u8>, length: u8) -> Vec<u8> {
    frame.truncate(1 + usize::from(length));
    frame
}
