//! Forming a ring: dial the successor and let the predecessor in, both at once, in one thread.
//!
//! Nothing here blocks except one `poll` of at most [`TICK`], so an abort, a deadline or a crowd of
//! strangers at the door delays nobody by more than that. Dialling is tried again until the
//! deadline, whatever the answer: the successor may just not have heard of the generation yet.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::abort::Abort;
use crate::error::RingError;
use crate::handshake::{Acceptor, Credentials, Dialler, HandshakeError, Progress};
use crate::hatch::Hatch;
use crate::shared::Memory;
use crate::topology::{predecessor, successor};

/// How long a connection that was accepted may take for its handshake.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(2);

/// How many accepted connections may be in their handshake at a time; others wait in the backlog.
const PENDING_MAX: usize = 8;

/// The longest this rank sleeps before it looks at its abort and its deadlines.
const TICK: Duration = Duration::from_millis(20);

/// How long after a failed attempt the successor is dialled again.
const RETRY: Duration = Duration::from_millis(50);

/// A bound port that lives across generations: connections that come between two of them wait.
#[derive(Debug)]
pub struct RingListener {
    listener: TcpListener,
    address: SocketAddr,
    /// Where ranks of this host leave memory; `None` if this system does not allow it.
    hatch: Option<Arc<Hatch>>,
}

impl RingListener {
    /// Binds `address`; port 0 lets the system choose one.
    pub fn bind(address: SocketAddr) -> Result<Self, RingError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let hatch = Hatch::open()
                .inspect_err(|reason| tracing::warn!(%reason, "ranks of this host cannot share memory with this one: using TCP"))
                .ok()
                .map(Arc::new);
            Ok(Self {
                listener,
                address,
                hatch,
            })
        };
        bind().map_err(|error: io::Error| RingError::io(format!("bind {address}"), error))
    }

    /// The address this listener is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// One generation's ranks, as this rank was told.
#[derive(Clone)]
pub struct Membership {
    /// The run's name.
    pub run: String,
    /// The number of this membership; it only ever grows.
    pub generation: u64,
    /// This rank, an index into `addrs`.
    pub rank: usize,
    /// The ring address of every rank; the length is the world size.
    pub addrs: Vec<SocketAddr>,
    /// What only the members of this generation know.
    pub secret: [u8; 32],
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("run", &self.run)
            .field("generation", &self.generation)
            .field("rank", &self.rank)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

impl Membership {
    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.addrs.len()
    }

    fn credentials(&self, from: usize, to: usize) -> Credentials {
        Credentials {
            run: self.run.clone(),
            generation: self.generation,
            secret: self.secret,
            from,
            to,
        }
    }
}

/// A proven connection to a neighbour; its stream does not block.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// Carries the data, if both ends are on one host.
    pub(crate) memory: Option<Memory>,
}

/// Connects to the successor and accepts the predecessor: `(outgoing, incoming)`.
///
/// The world has at least two ranks. Data between ranks of one host goes through shared memory if
/// `near` allows.
pub(crate) fn connect(
    listener: &RingListener,
    membership: &Membership,
    near: bool,
    patience: Duration,
    abort: &Abort,
) -> Result<(Connection, Connection), RingError> {
    let mut dial = Dial::new(membership, near);
    let hatch = listener.hatch.clone().filter(|_| near);
    let mut door = Door::new(&listener.listener, hatch, membership);
    let started = Instant::now();
    loop {
        abort.check()?;
        dial.advance();
        door.advance()?;
        match (dial.state, door.accepted) {
            (DialState::Done(outgoing), Some(incoming)) => return Ok((outgoing, incoming)),
            (state, accepted) => (dial.state, door.accepted) = (state, accepted),
        }
        if started.elapsed() >= patience {
            return Err(late(&dial, &door, patience));
        }
        let mut watched = Vec::with_capacity(2 + PENDING_MAX);
        dial.watch(&mut watched);
        door.watch(&mut watched);
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(RingError::io("wait for ring connections", error)),
        }
    }
}

/// The error of a rank whose patience ended, naming whom it still misses.
fn late(dial: &Dial<'_>, door: &Door<'_>, after: Duration) -> RingError {
    let (from, to) = (door.credentials.from, dial.credentials.to);
    let dialled = matches!(dial.state, DialState::Done(_));
    let last = || {
        dial.last
            .as_ref()
            .map_or("no answer".to_owned(), ToString::to_string)
    };
    match (dialled, &dial.last) {
        (false, Some(error)) if !matches!(error, HandshakeError::Io(_)) => RingError::Refused {
            rank: to,
            reason: error.to_string(),
        },
        (false, _) if door.accepted.is_none() => RingError::Timeout {
            after,
            waiting: format!("rank {to} at {} ({}) and rank {from}", dial.address, last()),
            rank: (from == to).then_some(to),
        },
        (false, _) => RingError::Timeout {
            after,
            waiting: format!("rank {to} at {} ({})", dial.address, last()),
            rank: Some(to),
        },
        (true, _) => RingError::Timeout {
            after,
            waiting: format!("rank {from} did not connect"),
            rank: Some(from),
        },
    }
}

enum DialState {
    Pause(Instant),
    Connecting(TcpStream),
    Shaking(TcpStream, Box<Dialler>),
    Done(Connection),
}

/// The way to the successor.
struct Dial<'a> {
    address: &'a SocketAddr,
    credentials: Credentials,
    near: bool,
    state: DialState,
    last: Option<HandshakeError>,
}

impl<'a> Dial<'a> {
    fn new(membership: &'a Membership, near: bool) -> Self {
        let to = successor(membership.rank, membership.world());
        Self {
            address: &membership.addrs[to],
            credentials: membership.credentials(membership.rank, to),
            near,
            state: DialState::Pause(Instant::now()),
            last: None,
        }
    }

    fn advance(&mut self) {
        let pause = DialState::Pause(Instant::now() + RETRY);
        let state = std::mem::replace(&mut self.state, pause);
        match self.step(state) {
            Ok(state) => self.state = state,
            Err(error) => self.last = Some(error),
        }
    }

    fn step(&self, state: DialState) -> Result<DialState, HandshakeError> {
        match state {
            DialState::Pause(until) if Instant::now() >= until => {
                Ok(DialState::Connecting(start_connecting(self.address)?))
            }
            DialState::Connecting(mut stream) => match connected(&stream)? {
                false => Ok(DialState::Connecting(stream)),
                true => {
                    let open = match self.near {
                        true => Dialler::open_near,
                        false => Dialler::open,
                    };
                    let dialler = open(self.credentials.clone(), &mut stream)?;
                    Ok(DialState::Shaking(stream, Box::new(dialler)))
                }
            },
            DialState::Shaking(mut stream, mut dialler) => match dialler.advance(&mut stream)? {
                Progress::Waiting => Ok(DialState::Shaking(stream, dialler)),
                Progress::Done => Ok(DialState::Done(Connection {
                    stream,
                    memory: dialler.into_memory(),
                })),
            },
            DialState::Pause(_) | DialState::Done(_) => Ok(state),
        }
    }

    fn watch<'b>(&'b self, watched: &mut Vec<PollFd<'b>>) {
        match &self.state {
            DialState::Connecting(stream) => {
                watched.push(PollFd::new(stream.as_fd(), PollFlags::POLLOUT));
            }
            DialState::Shaking(stream, _) => {
                watched.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            }
            DialState::Pause(_) | DialState::Done(_) => {}
        }
    }
}

fn start_connecting(address: &SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&(*address).into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn connected(stream: &TcpStream) -> io::Result<bool> {
    match (stream.take_error()?, stream.peer_addr()) {
        (Some(error), _) => Err(error),
        (None, Ok(_)) => Ok(true),
        (None, Err(error)) if error.kind() == ErrorKind::NotConnected => Ok(false),
        (None, Err(error)) => Err(error),
    }
}

struct Guest {
    stream: TcpStream,
    acceptor: Acceptor,
    until: Instant,
}

/// The way from the predecessor.
struct Door<'a> {
    listener: &'a TcpListener,
    hatch: Option<Arc<Hatch>>,
    credentials: Credentials,
    pending: Vec<Guest>,
    accepted: Option<Connection>,
}

impl<'a> Door<'a> {
    fn new(listener: &'a TcpListener, hatch: Option<Arc<Hatch>>, membership: &Membership) -> Self {
        let from = predecessor(membership.rank, membership.world());
        let credentials = membership.credentials(from, membership.rank);
        Self {
            listener,
            hatch,
            credentials,
            pending: Vec::new(),
            accepted: None,
        }
    }

    fn advance(&mut self) -> Result<(), RingError> {
        while self.accepted.is_none() && self.pending.len() < PENDING_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // The guest went away again before its turn.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => return Err(RingError::io("accept a ring connection", error)),
                },
            }
        }
        let mut index = 0;
        while self.accepted.is_none() && index < self.pending.len() {
            let guest = &mut self.pending[index];
            match guest.acceptor.advance(&mut guest.stream) {
                Ok(Progress::Waiting) if Instant::now() < guest.until => index += 1,
                Ok(Progress::Waiting) => drop(self.pending.swap_remove(index)),
                Ok(Progress::Done) => {
                    let guest = self.pending.swap_remove(index);
                    self.accepted = Some(Connection {
                        stream: guest.stream,
                        memory: guest.acceptor.into_memory(),
                    });
                    self.pending.clear();
                }
                Err(reason) => {
                    let guest = self.pending.swap_remove(index);
                    let address = guest.stream.peer_addr().ok();
                    tracing::debug!(?address, %reason, "refused a ring connection");
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, stream: TcpStream) {
        if stream.set_nonblocking(true).is_ok() {
            let acceptor = Acceptor::near(self.credentials.clone(), self.hatch.clone());
            self.pending.push(Guest {
                stream,
                acceptor,
                until: Instant::now() + HANDSHAKE,
            });
        }
    }

    fn watch<'b>(&'b self, watched: &mut Vec<PollFd<'b>>) {
        if self.accepted.is_none() && self.pending.len() < PENDING_MAX {
            watched.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let guests = self.pending.iter();
        watched.extend(guests.map(|g| PollFd::new(g.stream.as_fd(), PollFlags::POLLIN)));
    }
}
