//! The netlink socket under [`super::MmsgQueue`]: opening it, waiting on it, and reading many datagrams at once.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeSpec;

use super::Waker;

/// Datagrams read at once. 64 hold a burst of a busy queue; a batch larger than that would only let the first packet
/// wait longer for the last.
pub(super) const BATCH: usize = 64;

/// A netfilter netlink socket that talks to the kernel alone.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// Where one datagram of a batch lies in the buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Datagram {
    pub(super) length: usize,
    /// It was longer than its slot.
    pub(super) cut: bool,
}

/// Buffers for a batch of datagrams, used again and again.
#[derive(Debug)]
pub(super) struct Buffers {
    bytes: Box<[u8]>,
    slot: usize,
    datagrams: [Datagram; BATCH],
    filled: usize,
}

impl Buffers {
    /// `slot` bytes for each datagram.
    pub(super) fn new(slot: usize) -> Self {
        let bytes = vec![0; slot * BATCH].into_boxed_slice();
        Self { bytes, slot, datagrams: [Datagram::default(); BATCH], filled: 0 }
    }

    /// The datagrams that the last batch brought, and whether each was cut.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let slots = self.bytes.chunks_exact(self.slot);
        slots.zip(&self.datagrams[..self.filled]).map(|(slot, d)| (&slot[..d.length.min(slot.len())], d.cut))
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Whether every slot was used: there is likely more to read.
    pub(super) fn full(&self) -> bool {
        self.filled == BATCH
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace. Connected to the kernel: messages of other processes
    /// are refused.
    pub(super) fn open(receive_buffer: usize) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        set_receive_buffer(&fd, receive_buffer)?;
        // Without this a full buffer fails the next read with ENOBUFS; the kernel counts the loss (user_dropped).
        set_netlink_flag(fd.as_fd(), libc::NETLINK_NO_ENOBUFS)?;
        // Refused verdicts come back without the request's payload.
        set_netlink_flag(fd.as_fd(), libc::NETLINK_CAP_ACK)?;
        Ok(Self(fd))
    }

    /// Sends `bytes`, one or more whole messages. The kernel serves them before this returns.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took a part of a message")),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Takes what has arrived, without waiting. An empty batch means there was nothing.
    pub(super) fn receive(&self, buffers: &mut Buffers) -> io::Result<()> {
        buffers.filled = 0;
        // SAFETY: both are plain C structs of integers and pointers, for which all zeros is a valid value.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { mem::zeroed() };
        let slots = buffers.bytes.chunks_exact_mut(buffers.slot);
        for ((slot, vector), header) in slots.zip(&mut vectors).zip(&mut headers) {
            *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let count = loop {
            // SAFETY: the descriptor is open while `self` lives. Each of the BATCH headers points to one vector, and
            // that to a slot of `buffers.bytes` that is exclusively borrowed here and does not overlap another; all
            // outlive the call. No name and no control buffer is passed. A null timeout is allowed.
            let result = unsafe {
                libc::recvmmsg(
                    self.0.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    flags as _,
                    std::ptr::null_mut(),
                )
            };
            match Errno::result(result) {
                Ok(count) => break count as usize,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        };
        buffers.filled = count.min(BATCH);
        for (datagram, header) in buffers.datagrams.iter_mut().zip(&headers[..buffers.filled]) {
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *datagram = Datagram { length: header.msg_len as usize, cut };
        }
        Ok(())
    }

    /// Waits until there is something to read or the waker was used. False: the time was up.
    pub(super) fn wait(&self, waker: &Waker, timeout: Option<Duration>) -> io::Result<bool> {
        wait(self.0.as_fd(), waker, timeout)
    }
}

/// Waits until `socket` is readable or the waker was used. False: the time was up. A signal counts as neither: the
/// wait may then last longer than `timeout`.
pub(super) fn wait(socket: BorrowedFd<'_>, waker: &Waker, timeout: Option<Duration>) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    loop {
        match ppoll(&mut descriptors, timeout.map(TimeSpec::from_duration), None::<SigSet>) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Past `net.core.rmem_max` where permitted (CAP_NET_ADMIN over the machine), else up to it.
pub(super) fn set_receive_buffer(fd: &impl AsFd, bytes: usize) -> io::Result<()> {
    match setsockopt(fd, sockopt::RcvBufForce, &bytes) {
        Err(Errno::EPERM) => Ok(setsockopt(fd, sockopt::RcvBuf, &bytes)?),
        other => Ok(other?),
    }
}

fn set_netlink_flag(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed and so open; the value is a live c_int and its length is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(())
}
