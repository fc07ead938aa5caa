//! The run's token: 256 random bits that every caller shows and every ring secret is derived from.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::{ErrorKind, Generation};

const HEADER: &str = "authorization";

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("token file {path}: {source}; check the path and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not hold 64 hexadecimal digits.
    #[error("token file {0} does not hold 64 hexadecimal digits; use the file `ringmaster` wrote")]
    Malformed(PathBuf),
}

impl TokenError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The shared secret of one run. Never logged, never on a command line.
#[derive(Clone, PartialEq, Eq)]
pub struct RunToken([u8; 32]);

impl fmt::Debug for RunToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunToken(..)")
    }
}

impl RunToken {
    /// A fresh token from the operating system's random source.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads a token file: 64 hexadecimal digits.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenError::Io {
            path: path.to_owned(),
            source,
        })?;
        let hash = blake3::Hash::from_hex(text.trim())
            .map_err(|_| TokenError::Malformed(path.to_owned()))?;
        Ok(Self(*hash.as_bytes()))
    }

    /// Writes the token file, readable by its owner only.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let io = |source| TokenError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(io)?;
        file.write_all(self.hex().as_bytes()).map_err(io)
    }

    /// The secret of one generation's ring: a keyed hash (blake3, used as a MAC) of run and
    /// generation, so the journal holds no secret.
    pub fn ring_secret(&self, run: &str, generation: Generation) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"ringmaster ring v1\0");
        hasher.update(run.as_bytes());
        hasher.update(&generation.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The token as its file holds it, for the one other place that may: a Kubernetes Secret.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

/// Client side: shows the token with every call.
#[derive(Clone)]
pub struct ShowToken(MetadataValue<Ascii>);

impl ShowToken {
    /// Prepares the header once.
    pub fn new(token: &RunToken) -> Result<Self, Status> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.hex())
            .parse()
            .map_err(|_| Status::internal("the token does not fit a header"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(HEADER, self.0.clone());
        Ok(request)
    }
}

/// Server side: refuses every call that does not show the run's token.
#[derive(Clone)]
pub struct RequireToken(RunToken);

impl RequireToken {
    /// Requires `token`.
    pub fn new(token: RunToken) -> Self {
        Self(token)
    }
}

impl Interceptor for RequireToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request
            .metadata()
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|hex| blake3::Hash::from_hex(hex).ok());
        // blake3::Hash compares in constant time.
        if shown == Some(blake3::Hash::from_bytes(self.0.0)) {
            return Ok(request);
        }
        Err(Status::unauthenticated(
            "the caller did not show this run's token; point --token-file at the run's own",
        ))
    }
}
