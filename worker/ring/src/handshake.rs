//! How a link begins: both ends prove that they know the generation's secret.
//!
//! ```text
//! dialler (predecessor)                        acceptor (successor)
//!   Hello    magic "RMRH", version 2, 3 x 0,
//!            generation u64, from u32, to u32,
//!            host [16], nonce [32]      ---->
//!                                       <----  Reply    status u8; if 1: door [16],
//!                                                       nonce [32], proof [32]
//!   (leaves shared memory behind the door)
//!   Proof    memory u8, proof [32]      ---->
//!                                       <----  Verdict  status u8
//! ```
//!
//! A proof is the blake3 hash, keyed with the secret, of the role, run, generation, both ranks, both
//! nonces and what else was said: it fits one connection, one direction and one membership. A status
//! other than 1 is a refusal and ends the connection, but for a Verdict of 6: accepted, without the
//! shared memory. The acceptor answers a Hello of another generation or from another rank than its
//! predecessor without computing anything. All messages have fixed sizes, so nothing is allocated
//! from the wire and no byte beyond the handshake is read.
//!
//! `host` is the hash of this host's boot and network namespace, keyed too; an acceptor that has the
//! same one names the door of its hatch, see [`crate::hatch`]. Zeros stand for none of either.
//!
//! Both ends are state machines over a stream that may block or not: see [`Dialler::advance`].
//!
//! Versions: 1, the first; 2, shared memory.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use blake3::Hash;

use crate::hatch::{self, Door, Hatch, NO_DOOR, Token};
use crate::shared::Memory;

const MAGIC: [u8; 4] = *b"RMRH";
const VERSION: u8 = 2;
const HOST: usize = 16;
const DOOR: usize = size_of::<Door>();
const NONCE: usize = 32;
const PROOF: usize = 32;

/// Bytes of a Hello.
pub const HELLO_BYTES: usize = 24 + HOST + NONCE;
/// Bytes of a Reply that accepts.
pub const REPLY_BYTES: usize = 1 + DOOR + NONCE + PROOF;
/// Bytes of a Proof.
pub const PROOF_BYTES: usize = 1 + PROOF;

/// The one link both ends must agree on.
#[derive(Clone)]
pub struct Credentials {
    /// The run's name.
    pub run: String,
    /// The membership.
    pub generation: u64,
    /// What only members of that generation know.
    pub secret: [u8; 32],
    /// The dialling rank.
    pub from: usize,
    /// The accepting rank.
    pub to: usize,
}

impl Credentials {
    fn hello(&self, host: &[u8; HOST], nonce: &[u8; NONCE]) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[0..4].copy_from_slice(&MAGIC);
        hello[4] = VERSION;
        hello[8..16].copy_from_slice(&self.generation.to_le_bytes());
        hello[16..20].copy_from_slice(&(self.from as u32).to_le_bytes());
        hello[20..24].copy_from_slice(&(self.to as u32).to_le_bytes());
        hello[24..24 + HOST].copy_from_slice(host);
        hello[24 + HOST..].copy_from_slice(nonce);
        hello
    }

    fn proof(&self, role: &[u8], said: &Said) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"ringmaster ring handshake 2 ");
        hasher.update(role);
        hasher.update(&(self.run.len() as u64).to_le_bytes());
        hasher.update(self.run.as_bytes());
        hasher.update(&self.generation.to_le_bytes());
        hasher.update(&(self.from as u64).to_le_bytes());
        hasher.update(&(self.to as u64).to_le_bytes());
        hasher.update(&said.dialler);
        hasher.update(&said.acceptor);
        hasher.update(&said.host);
        hasher.update(&said.door);
        hasher.update(&[said.memory]);
        hasher.finalize()
    }

    /// What tells this host from others, if the system says.
    fn host(&self) -> Option<[u8; HOST]> {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let network = std::fs::read_link("/proc/self/ns/net").ok()?;
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"ringmaster ring host 1 ");
        hasher.update(&boot);
        hasher.update(network.as_os_str().as_encoded_bytes());
        let mut host = [0; HOST];
        hasher.finalize_xof().fill(&mut host);
        Some(host)
    }
}

/// What both ends have said besides the credentials.
#[derive(Clone, Copy, Default)]
struct Said {
    dialler: [u8; NONCE],
    acceptor: [u8; NONCE],
    host: [u8; HOST],
    door: Door,
    memory: u8,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The stream has nothing to read now; call again when it has.
    Waiting,
    /// Both ends are proven: frames may follow.
    Done,
}

/// Why a handshake ended without a link.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or ended.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// The first bytes are not a Hello of this version.
    #[error("it does not speak ring handshake version {VERSION}")]
    Foreign,
    /// The Hello names another membership.
    #[error("it is in another generation")]
    Generation,
    /// The Hello names other ranks than this link's.
    #[error("it does not expect this rank as its predecessor")]
    Rank,
    /// The proof is wrong: another secret, or another run's name.
    #[error("it does not prove the generation's secret")]
    Secret,
    /// A status byte nobody defined.
    #[error("it answers with status {0}")]
    Status(u8),
}

const ACCEPTED: u8 = 1;
const ACCEPTED_WITHOUT_MEMORY: u8 = 6;

impl HandshakeError {
    fn status(&self) -> u8 {
        match self {
            Self::Generation => 2,
            Self::Rank => 3,
            Self::Secret => 4,
            Self::Foreign | Self::Status(_) | Self::Io(_) => 5,
        }
    }

    fn check(status: u8) -> Result<(), Self> {
        match status {
            ACCEPTED => Ok(()),
            2 => Err(Self::Generation),
            3 => Err(Self::Rank),
            4 => Err(Self::Secret),
            5 => Err(Self::Foreign),
            other => Err(Self::Status(other)),
        }
    }
}

/// A message of at most `HELLO_BYTES.max(REPLY_BYTES)` bytes while it arrives.
struct Inbox {
    bytes: [u8; REPLY_BYTES],
    filled: usize,
}

impl Inbox {
    fn new() -> Self {
        Self {
            bytes: [0; REPLY_BYTES],
            filled: 0,
        }
    }

    /// Reads until `want` bytes are there; `false` if the stream has no more now.
    fn fill(&mut self, stream: &mut impl Read, want: usize) -> Result<bool, io::Error> {
        while self.filled < want {
            match stream.read(&mut self.bytes[self.filled..want]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The predecessor's side.
pub struct Dialler {
    credentials: Credentials,
    said: Said,
    inbox: Inbox,
    proven: bool,
    memory: Option<Memory>,
}

impl Dialler {
    /// Sends the Hello on a fresh connection.
    pub fn open(credentials: Credentials, stream: &mut impl Write) -> Result<Self, HandshakeError> {
        Self::say_hello(credentials, [0; HOST], stream)
    }

    /// The same, ready to share memory if the acceptor is on this host.
    pub(crate) fn open_near(
        credentials: Credentials,
        stream: &mut impl Write,
    ) -> Result<Self, HandshakeError> {
        let host = credentials.host().unwrap_or_default();
        Self::say_hello(credentials, host, stream)
    }

    fn say_hello(
        credentials: Credentials,
        host: [u8; HOST],
        stream: &mut impl Write,
    ) -> Result<Self, HandshakeError> {
        let said = Said {
            dialler: nonce()?,
            host,
            ..Said::default()
        };
        stream.write_all(&credentials.hello(&host, &said.dialler))?;
        Ok(Self {
            credentials,
            said,
            inbox: Inbox::new(),
            proven: false,
            memory: None,
        })
    }

    /// Goes as far as the bytes that have arrived allow.
    pub fn advance(
        &mut self,
        stream: &mut (impl Read + Write),
    ) -> Result<Progress, HandshakeError> {
        if !self.inbox.fill(stream, 1)? {
            return Ok(Progress::Waiting);
        }
        match self.inbox.bytes[0] {
            ACCEPTED_WITHOUT_MEMORY if self.proven => self.memory = None,
            status => HandshakeError::check(status)?,
        }
        if self.proven {
            return Ok(Progress::Done);
        }
        if !self.inbox.fill(stream, REPLY_BYTES)? {
            return Ok(Progress::Waiting);
        }
        let (door, rest) = self.inbox.bytes[1..].split_at(DOOR);
        let (theirs, proof) = rest.split_at(NONCE);
        self.said.door.copy_from_slice(door);
        self.said.acceptor.copy_from_slice(theirs);
        // Hash comparisons take the same time wherever the first difference is.
        if self.credentials.proof(b"acceptor", &self.said) != *proof {
            return Err(HandshakeError::Secret);
        }
        self.memory = self.leave_memory();
        self.said.memory = u8::from(self.memory.is_some());
        let proof = self.credentials.proof(b"dialler", &self.said);
        let message = [&[self.said.memory], proof.as_bytes().as_slice()].concat();
        stream.write_all(&message)?;
        (self.inbox, self.proven) = (Inbox::new(), true);
        self.advance(stream)
    }

    /// Leaves memory behind the acceptor's door, if it has one.
    fn leave_memory(&self) -> Option<Memory> {
        if self.said.door == NO_DOOR {
            return None;
        }
        let left = hatch::offer(self.said.door, &token(&self.credentials, self.said));
        left.map_err(|reason| {
            let rank = self.credentials.to;
            tracing::warn!(rank, %reason, "cannot share memory with a rank of this host: using TCP");
        })
        .ok()
    }

    /// The memory both ends have agreed on, once done.
    pub(crate) fn into_memory(self) -> Option<Memory> {
        self.memory
    }
}

/// What marks the memory of one handshake.
fn token(credentials: &Credentials, said: Said) -> Token {
    let said = Said { memory: 0, ..said };
    *credentials.proof(b"memory", &said).as_bytes()
}

/// The successor's side.
pub struct Acceptor {
    credentials: Credentials,
    hatch: Option<Arc<Hatch>>,
    said: Said,
    inbox: Inbox,
    greeted: bool,
    memory: Option<Memory>,
}

impl Acceptor {
    /// Waits for a Hello that fits `credentials`.
    pub fn new(credentials: Credentials) -> Self {
        Self::near(credentials, None)
    }

    /// The same; a dialler of this host may leave memory at `hatch`.
    pub(crate) fn near(credentials: Credentials, hatch: Option<Arc<Hatch>>) -> Self {
        Self {
            credentials,
            hatch,
            said: Said::default(),
            inbox: Inbox::new(),
            greeted: false,
            memory: None,
        }
    }

    /// Goes as far as the bytes that have arrived allow; a refusal is told to the dialler.
    pub fn advance(
        &mut self,
        stream: &mut (impl Read + Write),
    ) -> Result<Progress, HandshakeError> {
        let progress = self.step(stream);
        if let Err(refusal) = &progress {
            // The connection is over either way; a dialler that hears nothing sees it close.
            stream.write_all(&[refusal.status()]).ok();
        }
        progress
    }

    fn step(&mut self, stream: &mut (impl Read + Write)) -> Result<Progress, HandshakeError> {
        if self.greeted {
            return self.finish(stream);
        }
        if !self.inbox.fill(stream, HELLO_BYTES)? {
            return Ok(Progress::Waiting);
        }
        self.check_hello()?;
        self.said.acceptor = nonce()?;
        if let Some(hatch) = &self.hatch
            && self.credentials.host() == Some(self.said.host)
        {
            self.said.door = hatch.door();
        }
        let mut reply = [ACCEPTED; REPLY_BYTES];
        let (door, rest) = reply[1..].split_at_mut(DOOR);
        let (nonce, proof) = rest.split_at_mut(NONCE);
        door.copy_from_slice(&self.said.door);
        nonce.copy_from_slice(&self.said.acceptor);
        proof.copy_from_slice(self.credentials.proof(b"acceptor", &self.said).as_bytes());
        stream.write_all(&reply)?;
        (self.inbox, self.greeted) = (Inbox::new(), true);
        self.step(stream)
    }

    fn finish(&mut self, stream: &mut (impl Read + Write)) -> Result<Progress, HandshakeError> {
        if !self.inbox.fill(stream, PROOF_BYTES)? {
            return Ok(Progress::Waiting);
        }
        self.said.memory = self.inbox.bytes[0];
        if self.credentials.proof(b"dialler", &self.said) != self.inbox.bytes[1..PROOF_BYTES] {
            return Err(HandshakeError::Secret);
        }
        if self.said.memory != 0 {
            let token = token(&self.credentials, self.said);
            self.memory = self.hatch.as_ref().and_then(|hatch| hatch.fetch(&token));
        }
        let agreed = self.memory.is_some() == (self.said.memory != 0);
        stream.write_all(&[if agreed {
            ACCEPTED
        } else {
            ACCEPTED_WITHOUT_MEMORY
        }])?;
        Ok(Progress::Done)
    }

    /// The memory both ends have agreed on, once done.
    pub(crate) fn into_memory(self) -> Option<Memory> {
        self.memory
    }

    /// Notes the dialler's host and nonce, if its Hello is the one that this link expects.
    fn check_hello(&mut self) -> Result<(), HandshakeError> {
        let found = &self.inbox.bytes[..HELLO_BYTES];
        self.said.host.copy_from_slice(&found[24..24 + HOST]);
        self.said.dialler.copy_from_slice(&found[24 + HOST..]);
        let expected = self.credentials.hello(&self.said.host, &self.said.dialler);
        let differs = |range: std::ops::Range<usize>| found[range.clone()] != expected[range];
        match () {
            () if differs(0..8) => Err(HandshakeError::Foreign),
            () if differs(8..16) => Err(HandshakeError::Generation),
            () if differs(16..24) => Err(HandshakeError::Rank),
            () => Ok(()),
        }
    }
}

fn nonce() -> Result<[u8; NONCE], io::Error> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}
