//! libnccl, loaded at run time: a table of the functions we call.
//!
//! cudarc has bindings that load it too, but under every name except `libnccl.so.2`, the only one
//! that run-time packages and Python wheels install; and they panic where a function is missing. So
//! only their types are used here. Results are kept as numbers: a newer library may answer one that
//! no enum of today has.
#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;

use cudarc::nccl::sys;

use super::bootstrap::{ID_BYTES, Id};

/// Where the library is looked for, in the loader's order of folders.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// The oldest version whose communicators can be configured as ours are.
const OLDEST: c_int = 21_800;

/// Why there is no library to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The loader finds no file of that name.
    #[error(
        "no {name} is installed: gradients go through host memory and TCP; install NCCL 2.18 or \
         later and put it on LD_LIBRARY_PATH"
    )]
    Missing {
        /// The name that was looked for first.
        name: String,
    },
    /// There is a file, and the loader cannot use it.
    #[error("{name} cannot be loaded, {reason}: install NCCL 2.18 or later for this system")]
    Unusable {
        /// The name it was found under.
        name: String,
        /// What the loader said.
        reason: String,
    },
    /// The library lacks a function.
    #[error("{name} has no function {symbol}: install NCCL 2.18 or later")]
    Symbol {
        /// The name it was found under.
        name: String,
        /// The function.
        symbol: &'static str,
    },
    /// The library is too old.
    #[error("{name} is of version {version}: install NCCL 2.18 or later")]
    Version {
        /// The name it was found under.
        name: String,
        /// Its version.
        version: String,
    },
}

type Code = c_uint;
type Handle = sys::ncclComm_t;
type Stream = sys::cudaStream_t;
type Kind = sys::ncclDataType_t;
type Sum = sys::ncclRedOp_t;

/// Declares [`Library`] with a pointer for each function, and how all of them are found.
macro_rules! functions {
    ($($field:ident = $symbol:literal: $type:ty,)+) => {
        /// Proof that libnccl can be used, and its functions. It stays loaded for good: it has
        /// threads of its own.
        #[derive(Clone, Copy)]
        pub struct Library {
            name: &'static str,
            version: c_int,
            $(pub(super) $field: $type,)+
        }

        impl Library {
            /// # Safety
            /// `library` is libnccl, or lacks one of its functions.
            unsafe fn find(
                library: &libloading::Library,
                name: &'static str,
            ) -> Result<Self, LibraryError> {
                Ok(Self {
                    name,
                    version: 0,
                    // SAFETY: a function of this name has this type in every libnccl.
                    $($field: unsafe { symbol(library, name, $symbol)? },)+
                })
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": unsafe extern "C" fn(*mut c_int) -> Code,
    get_unique_id = "ncclGetUniqueId": unsafe extern "C" fn(*mut sys::ncclUniqueId) -> Code,
    get_error_string = "ncclGetErrorString": unsafe extern "C" fn(Code) -> *const c_char,
    get_last_error = "ncclGetLastError": unsafe extern "C" fn(Handle) -> *const c_char,
    init_rank = "ncclCommInitRankConfig": unsafe extern "C" fn(
        *mut Handle, c_int, sys::ncclUniqueId, c_int, *mut sys::ncclConfig_t
    ) -> Code,
    get_async_error = "ncclCommGetAsyncError": unsafe extern "C" fn(Handle, *mut Code) -> Code,
    abort = "ncclCommAbort": unsafe extern "C" fn(Handle) -> Code,
    finalize = "ncclCommFinalize": unsafe extern "C" fn(Handle) -> Code,
    destroy = "ncclCommDestroy": unsafe extern "C" fn(Handle) -> Code,
    all_reduce = "ncclAllReduce": unsafe extern "C" fn(
        *const c_void, *mut c_void, usize, Kind, Sum, Handle, Stream
    ) -> Code,
    reduce_scatter = "ncclReduceScatter": unsafe extern "C" fn(
        *const c_void, *mut c_void, usize, Kind, Sum, Handle, Stream
    ) -> Code,
    all_gather = "ncclAllGather": unsafe extern "C" fn(
        *const c_void, *mut c_void, usize, Kind, Handle, Stream
    ) -> Code,
}

/// # Safety
/// If `library` has a function of this name, its type is `F`, a function pointer.
unsafe fn symbol<F: Copy>(
    library: &libloading::Library,
    name: &'static str,
    symbol: &'static str,
) -> Result<F, LibraryError> {
    // SAFETY: as promised by the caller; the pointer stays valid because nobody unloads the library.
    let found = unsafe { library.get::<F>(symbol) };
    found.map(|found| *found).map_err(|_| LibraryError::Symbol {
        name: name.to_owned(),
        symbol,
    })
}

impl Library {
    /// Loads libnccl, from where the system's loader finds it.
    pub fn load() -> Result<Self, LibraryError> {
        Self::open(&NAMES)
    }

    fn open(names: &[&'static str]) -> Result<Self, LibraryError> {
        let mut missing = None;
        for &name in names {
            // SAFETY: libnccl's initialisers have no conditions, and it is never unloaded.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => {
                    let library = std::mem::ManuallyDrop::new(library);
                    // SAFETY: whoever installs a library under this name means libnccl.
                    return unsafe { Self::find(&library, name) }?.recent();
                }
                Err(error) => missing = missing.or(unusable(name, &error)),
            }
        }
        let name = names.first().copied().unwrap_or_default().to_owned();
        Err(missing.unwrap_or(LibraryError::Missing { name }))
    }

    fn recent(mut self) -> Result<Self, LibraryError> {
        // SAFETY: `version` is a place for an int.
        let code = unsafe { (self.get_version)(&raw mut self.version) };
        if code == sys::ncclResult_t::ncclSuccess as Code && self.version >= OLDEST {
            return Ok(self);
        }
        Err(LibraryError::Version {
            name: self.name.to_owned(),
            version: self.version(),
        })
    }

    /// The version, as in `2.18.1`.
    pub fn version(&self) -> String {
        version(self.version)
    }

    /// A new id, which starts a thread that the ranks of its communicator will connect to.
    pub(super) fn unique_id(&self) -> Result<Id, String> {
        let mut id = sys::ncclUniqueId {
            internal: [0; ID_BYTES],
        };
        // SAFETY: `id` is a place for an id.
        let code = unsafe { (self.get_unique_id)(&raw mut id) };
        self.verdict("ncclGetUniqueId", code)?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// What a result says: done, not yet done, or a sentence.
    pub(super) fn verdict(&self, call: &str, code: Code) -> Result<bool, String> {
        if code == sys::ncclResult_t::ncclSuccess as Code {
            return Ok(true);
        }
        if code == sys::ncclResult_t::ncclInProgress as Code {
            return Ok(false);
        }
        // SAFETY: any number has a text, and the last error is asked for without a communicator;
        // both are strings that live as long as the library, or null.
        let (kind, last) = unsafe {
            (
                text((self.get_error_string)(code)),
                text((self.get_last_error)(std::ptr::null_mut())),
            )
        };
        let last = last.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(match last.is_empty() {
            true => format!("{call} says {kind}"),
            false => format!("{call} says {kind} ({last})"),
        })
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("name", &self.name)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// `None` if the file is not there: another name may be.
fn unusable(name: &str, error: &libloading::Error) -> Option<LibraryError> {
    let reason = error
        .source()
        .map_or(error.to_string(), ToString::to_string);
    // The loader says the same of a library that is needed by this one, under that one's name.
    let absent = format!("{name}: cannot open shared object file: No such file");
    (!reason.starts_with(&absent)).then(|| LibraryError::Unusable {
        name: name.to_owned(),
        reason,
    })
}

/// Versions since 2.9 have two digits for each part after the first; before, one for the second.
fn version(code: c_int) -> String {
    match code {
        10_000.. => format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100),
        _ => format!("{}.{}.{}", code / 1000, code / 100 % 10, code % 100),
    }
}

/// # Safety
/// `text` is null or a string that nobody changes meanwhile.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is not null, and the rest the caller promises.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_next_move() {
        let error = Library::open(&["libnowhere.so.2", "libnowhere.so"]).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            text,
            "no libnowhere.so.2 is installed: gradients go through host memory and TCP; install \
             NCCL 2.18 or later and put it on LD_LIBRARY_PATH"
        );
    }

    #[test]
    fn a_library_without_our_functions_is_refused() {
        let error = Library::open(&["libnowhere.so.2", "libc.so.6"]).err();
        let expected = LibraryError::Symbol {
            name: "libc.so.6".to_owned(),
            symbol: "ncclGetVersion",
        };
        assert_eq!(error, Some(expected));
    }

    #[test]
    fn a_file_that_is_no_library_is_not_called_missing() {
        let error = Library::open(&["/proc/self/status"]).err();
        assert!(
            matches!(error, Some(LibraryError::Unusable { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version(21_801), "2.18.1");
        assert_eq!(version(23_007), "2.30.7");
        assert_eq!(version(2708), "2.7.8");
    }
}
