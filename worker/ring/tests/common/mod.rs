//! Ranks as threads of one process, over loopback.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringmaster_ring::frame::{HEADER_BYTES, Header, Stamp};
use ringmaster_ring::handshake::{Acceptor, Credentials, Dialler, Progress};
use ringmaster_ring::{Abort, Membership, Options, Ring, RingError, RingListener, Transport};

/// No test waits this long unless it fails.
pub(crate) const LATE: Duration = Duration::from_secs(60);

/// How bytes travel between the ranks of a test: what holds for one way holds for all. Ranks of one
/// process are on one host, so the best way is shared memory.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Best, Transport::Tcp];

/// The one way that something between two ranks can get at all bytes.
pub(crate) const OPEN: [Transport; 1] = [Transport::Tcp];

/// The options of a ring whose links travel that way; it forms even where many tests share a core.
pub(crate) fn options(transport: Transport, silence: Duration) -> Options {
    Options {
        connect: LATE,
        silence,
        transport,
        ..Options::default()
    }
}

/// A channel that gets what `options.on_broken` is told.
pub(crate) fn on_broken(options: &mut Options) -> Receiver<RingError> {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let tell = move |error| sender.lock().unwrap().send(error).unwrap();
    options.on_broken = Some(Arc::new(tell));
    receiver
}

/// How much later than its cause an end may come where many tests share few cores.
pub(crate) const MARGIN: Duration = Duration::from_secs(20);

pub(crate) const RUN: &str = "test";
pub(crate) const SECRET: [u8; 32] = [7; 32];

pub(crate) fn listen() -> RingListener {
    RingListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

pub(crate) fn addresses(listeners: &[RingListener]) -> Vec<SocketAddr> {
    listeners.iter().map(RingListener::local_addr).collect()
}

pub(crate) fn membership(addrs: &[SocketAddr], generation: u64, rank: usize) -> Membership {
    Membership {
        run: RUN.to_owned(),
        generation,
        rank,
        addrs: addrs.to_vec(),
        secret: SECRET,
    }
}

/// Forms a ring of `world` threads and returns what `body` returns on each rank.
pub(crate) fn on_ring<T: Send>(
    world: usize,
    options: &Options,
    body: impl Fn(Result<Ring, RingError>, Abort) -> T + Sync,
) -> Vec<T> {
    let listeners: Vec<_> = (0..world).map(|_| listen()).collect();
    on_listeners(&listeners, 1, options, body)
}

pub(crate) fn on_listeners<T: Send>(
    listeners: &[RingListener],
    generation: u64,
    options: &Options,
    body: impl Fn(Result<Ring, RingError>, Abort) -> T + Sync,
) -> Vec<T> {
    let options = vec![options.clone(); listeners.len()];
    on_addresses(listeners, &addresses(listeners), generation, options, body)
}

/// The same where the ranks dial other addresses than those that are listened on, each with
/// options of its own.
pub(crate) fn on_addresses<T: Send>(
    listeners: &[RingListener],
    addrs: &[SocketAddr],
    generation: u64,
    options: Vec<Options>,
    body: impl Fn(Result<Ring, RingError>, Abort) -> T + Sync,
) -> Vec<T> {
    let body = &body;
    let aborts: Vec<_> = options.iter().map(|_| Abort::new()).collect();
    let (over, watch) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let ranks: Vec<_> = (options.into_iter().enumerate())
            .map(|(rank, options)| {
                let (abort, over) = (aborts[rank].clone(), over.clone());
                scope.spawn(move || {
                    let member = membership(addrs, generation, rank);
                    let ring = Ring::form(&listeners[rank], member, options, &abort);
                    let end = body(ring, abort);
                    drop(over);
                    end
                })
            })
            .collect();
        drop(over);
        // A test that fails by waiting for ever ends all the same.
        if watch.recv_timeout(LATE) == Err(RecvTimeoutError::Timeout) {
            aborts
                .iter()
                .for_each(|abort| abort.abort("the test takes too long"));
        }
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A member that speaks only as much of the protocol as a test wants.
pub(crate) struct RawPeer {
    pub(crate) listener: TcpListener,
    pub(crate) rank: usize,
}

impl RawPeer {
    pub(crate) fn new(rank: usize) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            rank,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The link from `previous`, a rank that is forming the generation.
    pub(crate) fn accept(&self, previous: usize, generation: u64) -> TcpStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut acceptor = Acceptor::new(credentials(generation, previous, self.rank));
        while acceptor.advance(&mut stream).unwrap() == Progress::Waiting {}
        stream
    }

    /// Both links, from a rank that is forming the generation: `(to successor, from predecessor)`.
    pub(crate) fn join(&self, addrs: &[SocketAddr], generation: u64) -> (TcpStream, TcpStream) {
        let world = addrs.len();
        let (next, previous) = ((self.rank + 1) % world, (self.rank + world - 1) % world);
        let dial = || dial(addrs[next], &credentials(generation, self.rank, next)).unwrap();
        thread::scope(|scope| {
            let dialled = scope.spawn(dial);
            let accepted = self.accept(previous, generation);
            (dialled.join().unwrap(), accepted)
        })
    }
}

/// Fills in the header of a frame of generation 1 whose payload lies at `HEADER_BYTES..` already.
pub(crate) fn seal(frame: &mut [u8], stamp: Stamp) {
    let (head, payload) = frame.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&Header::encode(1, stamp, payload));
}

pub(crate) fn credentials(generation: u64, from: usize, to: usize) -> Credentials {
    Credentials {
        run: RUN.to_owned(),
        generation,
        secret: SECRET,
        from,
        to,
    }
}

/// One attempt of a dialler; the error is its refusal, in words.
pub(crate) fn dial(address: SocketAddr, credentials: &Credentials) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut dialler = Dialler::open(credentials.clone(), &mut stream).unwrap();
    match dialler.advance(&mut stream) {
        Ok(Progress::Done) => Ok(stream),
        Ok(Progress::Waiting) => Err("no answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads until the other end closes.
pub(crate) fn drain(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    bytes
}

/// Writes `bytes` to a fresh connection and keeps it open.
pub(crate) fn intrude(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}
