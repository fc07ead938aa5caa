//! How a link begins: both ends prove that they know the generation's secret.
//!
//! ```text
//! dialler (predecessor)                        acceptor (successor)
//!   Hello    magic "RMRH", version 1, 3 x 0,
//!            generation u64, from u32, to u32,
//!            nonce [32]                 ---->
//!                                       <----  Reply    status u8; if 1: nonce [32], proof [32]
//!   Proof    proof [32]                 ---->
//!                                       <----  Verdict  status u8
//! ```
//!
//! A proof is the blake3 hash, keyed with the secret, of the role, run, generation, both ranks and
//! both nonces: it fits one connection, one direction and one membership. A status other than 1 is
//! a refusal and ends the connection. The acceptor answers a Hello of another generation or from
//! another rank than its predecessor without computing anything. All messages have fixed sizes, so
//! nothing is allocated from the wire and no byte beyond the handshake is read.
//!
//! Both ends are state machines over a stream that may block or not: see [`Dialler::advance`].
//!
//! Versions: 1, the first.

use std::io::{self, ErrorKind, Read, Write};

use blake3::Hash;

const MAGIC: [u8; 4] = *b"RMRH";
const VERSION: u8 = 1;
const NONCE: usize = 32;
const PROOF: usize = 32;

/// Bytes of a Hello.
pub const HELLO_BYTES: usize = 56;
/// Bytes of a Reply that accepts.
pub const REPLY_BYTES: usize = 1 + NONCE + PROOF;
/// Bytes of a Proof.
pub const PROOF_BYTES: usize = PROOF;

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
    fn hello(&self, nonce: &[u8; NONCE]) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[0..4].copy_from_slice(&MAGIC);
        hello[4] = VERSION;
        hello[8..16].copy_from_slice(&self.generation.to_le_bytes());
        hello[16..20].copy_from_slice(&(self.from as u32).to_le_bytes());
        hello[20..24].copy_from_slice(&(self.to as u32).to_le_bytes());
        hello[24..].copy_from_slice(nonce);
        hello
    }

    fn proof(&self, role: &[u8], dialler_nonce: &[u8], acceptor_nonce: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"ringmaster ring handshake 1 ");
        hasher.update(role);
        hasher.update(&(self.run.len() as u64).to_le_bytes());
        hasher.update(self.run.as_bytes());
        hasher.update(&self.generation.to_le_bytes());
        hasher.update(&(self.from as u64).to_le_bytes());
        hasher.update(&(self.to as u64).to_le_bytes());
        hasher.update(dialler_nonce);
        hasher.update(acceptor_nonce);
        hasher.finalize()
    }
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
    nonce: [u8; NONCE],
    inbox: Inbox,
    proven: bool,
}

impl Dialler {
    /// Sends the Hello on a fresh connection.
    pub fn open(credentials: Credentials, stream: &mut impl Write) -> Result<Self, HandshakeError> {
        let nonce = nonce()?;
        stream.write_all(&credentials.hello(&nonce))?;
        Ok(Self {
            credentials,
            nonce,
            inbox: Inbox::new(),
            proven: false,
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
        HandshakeError::check(self.inbox.bytes[0])?;
        if self.proven {
            return Ok(Progress::Done);
        }
        if !self.inbox.fill(stream, REPLY_BYTES)? {
            return Ok(Progress::Waiting);
        }
        let (theirs, proof) = self.inbox.bytes[1..].split_at(NONCE);
        // Hash comparisons take the same time wherever the first difference is.
        if self.credentials.proof(b"acceptor", &self.nonce, theirs) != *proof {
            return Err(HandshakeError::Secret);
        }
        let proof = self.credentials.proof(b"dialler", &self.nonce, theirs);
        stream.write_all(proof.as_bytes())?;
        (self.inbox, self.proven) = (Inbox::new(), true);
        self.advance(stream)
    }
}

/// The successor's side.
pub struct Acceptor {
    credentials: Credentials,
    inbox: Inbox,
    expected: Option<Hash>,
}

impl Acceptor {
    /// Waits for a Hello that fits `credentials`.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            inbox: Inbox::new(),
            expected: None,
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
        if let Some(expected) = self.expected {
            if !self.inbox.fill(stream, PROOF_BYTES)? {
                return Ok(Progress::Waiting);
            }
            if expected != self.inbox.bytes[..PROOF_BYTES] {
                return Err(HandshakeError::Secret);
            }
            stream.write_all(&[ACCEPTED])?;
            return Ok(Progress::Done);
        }
        if !self.inbox.fill(stream, HELLO_BYTES)? {
            return Ok(Progress::Waiting);
        }
        let theirs = self.check_hello()?;
        let ours = nonce()?;
        let mut reply = [ACCEPTED; REPLY_BYTES];
        reply[1..1 + NONCE].copy_from_slice(&ours);
        let proof = self.credentials.proof(b"acceptor", &theirs, &ours);
        reply[1 + NONCE..].copy_from_slice(proof.as_bytes());
        stream.write_all(&reply)?;
        self.expected = Some(self.credentials.proof(b"dialler", &theirs, &ours));
        self.inbox = Inbox::new();
        self.step(stream)
    }

    /// The dialler's nonce, if its Hello is the one that this link expects.
    fn check_hello(&self) -> Result<[u8; NONCE], HandshakeError> {
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&self.inbox.bytes[24..HELLO_BYTES]);
        let (found, expected) = (&self.inbox.bytes[..24], self.credentials.hello(&nonce));
        let differs = |range: std::ops::Range<usize>| found[range.clone()] != expected[range];
        match () {
            () if differs(0..8) => Err(HandshakeError::Foreign),
            () if differs(8..16) => Err(HandshakeError::Generation),
            () if differs(16..24) => Err(HandshakeError::Rank),
            () => Ok(nonce),
        }
    }
}

fn nonce() -> Result<[u8; NONCE], io::Error> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}
