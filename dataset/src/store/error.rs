//! What a store can answer instead of the object, one sentence each.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};
use ringmaster_proto::ErrorKind;

/// Longest reason quoted from a store, in characters; some answer with a page of XML.
const REASON_CHARS_MAX: usize = 240;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store.
    #[error("{url}: {reason}; use a path, file://, s3://, gs:// or az://")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such object.
    #[error("{url} does not exist; check the URL")]
    NotFound {
        /// The object.
        url: String,
    },
    /// Another version of the object than the one that is wanted.
    #[error("{url} is not the version that was listed; restore it, or list it again")]
    OtherVersion {
        /// The object.
        url: String,
    },
    /// Somebody created the object first.
    #[error("{url} already exists; another process wrote it first")]
    AlreadyExists {
        /// The object.
        url: String,
    },
    /// There is no such bucket or container.
    #[error("{url}: there is no such bucket; create it, or check the URL and the endpoint")]
    MissingBucket {
        /// What was asked for.
        url: String,
    },
    /// Nothing to sign requests with.
    #[error("{url}: no credentials are set; {next}")]
    NoCredentials {
        /// The store.
        url: String,
        /// What to set.
        next: &'static str,
    },
    /// The store does not let this caller in.
    #[error(
        "{url}: the store refused the credentials: {reason}; check the access \
         key, the secret, the region and the rights they carry"
    )]
    Refused {
        /// What was asked for.
        url: String,
        /// What the store said.
        reason: String,
    },
    /// Nobody answers.
    #[error("{url}: the store cannot be reached: {reason}; check the endpoint and the network")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// More than is read at once.
    #[error("{url} has {bytes} bytes and at most {bytes_max} are read; check the URL")]
    TooLarge {
        /// The object.
        url: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Anything else, with the store's own words.
    #[error("{url}: the store failed: {reason}; try again, or look at the store's own log")]
    Failed {
        /// What was asked for.
        url: String,
        /// What it said.
        reason: String,
    },
    /// Creating an object if absent does not exclude other writers: nothing can be decided there.
    #[error(
        "{url}: {winners} of {writers} simultaneous creates of one object succeeded instead of \
         1; a run needs a store with atomic conditional writes"
    )]
    NotAtomic {
        /// The store.
        url: String,
        /// How many believe they created it.
        winners: usize,
        /// How many tried.
        writers: usize,
    },
}

/// S3 error codes that say that the caller is not let in.
const REFUSALS: [&str; 5] = [
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
];

impl StoreError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. }
            | Self::OtherVersion { .. }
            | Self::MissingBucket { .. }
            | Self::TooLarge { .. } => ErrorKind::Data,
            Self::AlreadyExists { .. } => ErrorKind::Fenced,
            Self::Unreachable { .. } | Self::Failed { .. } => ErrorKind::Retry,
            Self::Url { .. }
            | Self::NoCredentials { .. }
            | Self::Refused { .. }
            | Self::NotAtomic { .. } => ErrorKind::Invalid,
        }
    }

    /// Whether the object is absent.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the object is there, but not in the version that is wanted.
    pub fn is_other_version(&self) -> bool {
        matches!(self, Self::OtherVersion { .. })
    }

    /// Whether a create lost to an object that is there.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// Translates what the client library says about `url`.
    pub(super) fn of(url: String, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let said = said(&error);
        match &error {
            _ if said.contains("NoSuchBucket") || said.contains("ContainerNotFound") => {
                Self::MissingBucket { url }
            }
            E::NotFound { .. } => Self::NotFound { url },
            E::AlreadyExists { .. } | E::Precondition { .. } => Self::AlreadyExists { url },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Refused {
                url,
                reason: brief(&said),
            },
            // Not every server sends these with status 401 or 403.
            _ if REFUSALS.iter().any(|code| said.contains(code)) => Self::Refused {
                url,
                reason: brief(&said),
            },
            _ if is_unreachable(&error) => Self::Unreachable {
                url,
                reason: brief(&said),
            },
            _ => Self::Failed {
                url,
                reason: brief(&said),
            },
        }
    }
}

/// The innermost cause: the layers above it repeat it with the request around it.
fn said(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn is_unreachable(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return matches!(http.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout);
        }
        cause = error.source();
    }
    false
}

/// The code and message of an S3 error document, or the text itself, on one line.
fn brief(said: &str) -> String {
    let tag = |name: &str| {
        let (_, rest) = said.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let text = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => said.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let end = text
        .char_indices()
        .nth(REASON_CHARS_MAX)
        .map_or(text.len(), |(at, _)| at);
    text[..end].trim_end_matches(['.', ' ', ':']).to_owned()
}
