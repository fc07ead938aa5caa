//! The network between a rank and its successor, when it misbehaves.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Chunks of at most 64 KiB that may be on their way at once where there is a delay.
const UNDER_WAY: usize = 1024;

/// The direction of a byte: towards the listening rank, or back to the one that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Back,
}

/// One bit that arrives wrong, once: in the first connection that carries so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flip {
    pub(crate) way: Way,
    /// Counted from the first byte of the handshake.
    pub(crate) byte: usize,
    pub(crate) bit: usize,
}

/// Forwards every connection to a rank until it freezes or is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    now: Mutex<Now>,
    over: Condvar,
}

#[derive(Default)]
struct Now {
    flip: Option<Flip>,
    delay: Duration,
    frozen: bool,
    over: bool,
    sockets: Vec<TcpStream>,
    pumps: Vec<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr, flip: Option<Flip>) -> Self {
        Self::with(target, flip, Duration::ZERO)
    }

    /// One through which every byte takes `delay`, in either direction.
    pub(crate) fn far(target: SocketAddr, delay: Duration) -> Self {
        Self::with(target, None, delay)
    }

    fn with(target: SocketAddr, flip: Option<Flip>, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        (state.now().flip, state.now().delay) = (flip, delay);
        let shared = state.clone();
        let accepting = Some(thread::spawn(move || {
            for dialled in listener.incoming() {
                let dialled = dialled.unwrap();
                if shared.now().over {
                    return;
                }
                // Nobody listens where a rank is gone: the dialler sees its connection close.
                if let Ok(onward) = TcpStream::connect(target) {
                    shared.join(&dialled, &onward);
                }
            }
        }));
        Self {
            address,
            state,
            accepting,
        }
    }

    /// What the predecessor of the rank behind this has to dial.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on nothing is forwarded, in either direction, and nothing closes: as if the host
    /// behind the connection had lost its power.
    pub(crate) fn freeze(&self) {
        self.state.now().frozen = true;
    }

    /// Whether the bit has been flipped.
    pub(crate) fn has_flipped(&self) -> bool {
        self.state.now().flip.is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pumps = {
            let mut now = self.state.now();
            now.over = true;
            for socket in &now.sockets {
                socket.shutdown(Shutdown::Both).ok();
            }
            std::mem::take(&mut now.pumps)
        };
        self.state.over.notify_all();
        TcpStream::connect(self.address).ok();
        let threads = pumps.into_iter().chain(self.accepting.take());
        let ends: Vec<_> = threads.map(JoinHandle::join).collect();
        assert!(thread::panicking() || ends.iter().all(Result::is_ok));
    }
}

impl State {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap()
    }

    /// Forwards between these two in both directions.
    fn join(self: &Arc<Self>, dialled: &TcpStream, onward: &TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        let ways = [
            (Way::Forward, copy(dialled), copy(onward)),
            (Way::Back, copy(onward), copy(dialled)),
        ];
        for (way, from, to) in ways {
            from.set_nodelay(true).unwrap();
            let (line, arrives) = sync_channel(UNDER_WAY);
            let shared = self.clone();
            let pump = thread::spawn(move || shared.pump(way, from, line));
            let end = thread::spawn(move || deliver(&arrives, to));
            self.now().pumps.extend([pump, end]);
        }
        let mut now = self.now();
        now.sockets.extend([copy(dialled), copy(onward)]);
        if now.over {
            // Dropped meanwhile: it did not see these.
            dialled.shutdown(Shutdown::Both).ok();
            onward.shutdown(Shutdown::Both).ok();
        }
    }

    /// Puts what is read on the line, which ends with the reading.
    fn pump(&self, way: Way, mut from: TcpStream, line: SyncSender<(Instant, Vec<u8>)>) {
        let (mut buffer, mut passed) = (vec![0; 64 * 1024], 0);
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut now = self.now();
            while now.frozen && !now.over {
                now = self.over.wait(now).unwrap();
            }
            if now.over || count == 0 {
                return;
            }
            let range = passed..passed + count;
            if let Some(flip) = now.flip.filter(|f| f.way == way && range.contains(&f.byte)) {
                buffer[flip.byte - passed] ^= 1 << flip.bit;
                now.flip = None;
            }
            let arrival = Instant::now() + now.delay;
            drop(now);
            passed += count;
            if line.send((arrival, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }
}

/// Writes what is on the line when it is due.
fn deliver(line: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (arrival, bytes) in line {
        // The time it takes is what this is for.
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        // Fails when the other end is gone, which the next read there shows too.
        to.write_all(&bytes).ok();
    }
    to.shutdown(Shutdown::Write).ok();
}
