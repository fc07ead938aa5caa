//! How shared memory gets from one rank to another of the same host: over a unix socket with an
//! abstract name, which no file system shows and which ends with its process.
//!
//! The sender of a link makes the memory and offers it here before it ends its handshake, so the
//! receiver finds it without waiting. A token that only the two ends of that handshake know tells
//! it from what strangers leave at the hatch.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use socket2::{Domain, Socket, Type};

use crate::shared::{Descriptors, Memory};

/// What tells one offer from another.
pub(crate) type Token = [u8; 32];

/// The random part of a hatch's name; all zeros is no hatch.
pub(crate) type Door = [u8; 16];

/// No hatch.
pub(crate) const NO_DOOR: Door = [0; 16];

/// How many offers are looked at for one link: strangers may have left some.
const OFFERS_MAX: usize = 16;

/// A place where processes of this host leave memory for this one.
#[derive(Debug)]
pub(crate) struct Hatch {
    listener: UnixListener,
    door: Door,
}

fn name(door: Door) -> Vec<u8> {
    [b"ringmaster-".as_slice(), &door].concat()
}

impl Hatch {
    pub(crate) fn open() -> io::Result<Self> {
        let mut door = NO_DOOR;
        getrandom::fill(&mut door).map_err(io::Error::other)?;
        let address = SocketAddr::from_abstract_name(name(door))?;
        let listener = UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, door })
    }

    pub(crate) fn door(&self) -> Door {
        self.door
    }

    /// The memory that was left with this token; others are thrown away.
    pub(crate) fn fetch(&self, token: &Token) -> Option<Memory> {
        for _ in 0..OFFERS_MAX {
            let (stream, _) = self.listener.accept().ok()?;
            match take(&stream, token) {
                Ok(Some(memory)) => return Some(memory),
                Ok(None) => {}
                Err(reason) => tracing::debug!(%reason, "refused an offer of shared memory"),
            }
        }
        None
    }
}

/// Leaves a new memory at the hatch behind `door`.
pub(crate) fn offer(door: Door, token: &Token) -> io::Result<Memory> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let name = [b"\0".as_slice(), &name(door)].concat();
    socket.connect(&socket2::SockAddr::unix(std::ffi::OsStr::from_bytes(
        &name,
    ))?)?;
    let (memory, descriptors) = Memory::create()?;
    let raw = descriptors.each_ref().map(AsRawFd::as_raw_fd);
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(token)],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent != token.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(memory)
}

/// What lies in one connection, if it has the right token.
fn take(stream: &UnixStream, token: &Token) -> io::Result<Option<Memory>> {
    let mut found = Token::default();
    let mut space = cmsg_space!([std::os::fd::RawFd; 3]);
    let mut descriptors = Vec::new();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(&mut found)];
    let received = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else
            // knows their numbers.
            descriptors.extend(raw.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    let complete = received.bytes == token.len();
    if !complete || blake3::Hash::from(found) != blake3::Hash::from(*token) {
        return Ok(None);
    }
    let descriptors = Descriptors::try_from(descriptors)
        .map_err(|found| io::Error::other(format!("{} descriptors, not 3", found.len())))?;
    Memory::open(descriptors).map(Some)
}
