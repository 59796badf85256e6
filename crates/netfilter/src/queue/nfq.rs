//! [`NfqQueue`]: the same on the `nfq` crate, a packet a system call. It exists to be compared with.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, socket};

use super::socket::{BATCH, set_receive_buffer, wait};
use super::{Fate, Packet, Queue, QueueError, QueueSettings, Received, Waker, queue_stats};

/// A queue on the `nfq` crate.
///
/// That crate allocates per packet and panics on malformed messages (its own assertions): a rival to measure against,
/// not one to trust a node to.
pub struct NfqQueue {
    queue: nfq::Queue,
    /// A second descriptor of the crate's socket, which it does not show: for waiting and for the buffer's size.
    socket: OwnedFd,
    waker: Waker,
    batch: Vec<nfq::Message>,
    held: Vec<nfq::Message>,
    malformed: u64,
}

impl NfqQueue {
    /// Binds queue `settings.number` in the calling thread's network namespace.
    pub fn bind(settings: &QueueSettings) -> Result<Self, QueueError> {
        let number = settings.number;
        let io = |what| QueueError::io(number, what);
        let refused = |error| QueueError::refused(number, error);
        let mut queue = nfq::Queue::open().map_err(io("opening a netlink socket"))?;
        queue.bind(number).map_err(refused)?;
        queue.set_queue_max_len(number, settings.length).map_err(refused)?;
        queue.set_recv_gso(number, settings.gso).map_err(refused)?;
        queue.set_fail_open(number, settings.fail_open).map_err(refused)?;
        queue.set_copy_range(number, settings.copy_range.min(0xffff) as u16).map_err(refused)?;
        queue.set_nonblocking(true);
        let socket = find_socket(number).map_err(io("finding the nfq crate's socket"))?;
        set_receive_buffer(&socket, settings.receive_buffer).map_err(io("setting the receive buffer"))?;
        Ok(Self {
            queue,
            socket,
            waker: Waker::new().map_err(io("making an eventfd"))?,
            batch: Vec::with_capacity(BATCH),
            held: Vec::new(),
            malformed: 0,
        })
    }

    fn verdict(&mut self, mut message: nfq::Message, fate: Fate) -> io::Result<()> {
        match fate {
            Fate::Accept { mark } => {
                message.set_verdict(nfq::Verdict::Accept);
                if mark != message.get_nfmark() {
                    message.set_nfmark(mark);
                }
            }
            Fate::Drop => message.set_verdict(nfq::Verdict::Drop),
            Fate::Queue { number } => message.set_verdict(nfq::Verdict::Queue(number)),
            Fate::Repeat => message.set_verdict(nfq::Verdict::Repeat),
            Fate::Hold => {
                self.held.push(message);
                return Ok(());
            }
        }
        self.queue.verdict(message)
    }
}

impl Queue for NfqQueue {
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<Received> {
        loop {
            if self.waker.take() {
                return Ok(Received::Woken);
            }
            while self.batch.len() < BATCH {
                match self.queue.recv() {
                    Ok(message) => self.batch.push(message),
                    Err(error) => match error.raw_os_error() {
                        Some(libc::EAGAIN) => break,
                        // A verdict for a packet that is gone.
                        Some(libc::ENOENT) => self.malformed += 1,
                        Some(libc::EINTR) => {}
                        _ => return Err(error),
                    },
                }
            }
            if !self.batch.is_empty() {
                return Ok(Received::Packets(self.batch.len()));
            }
            if !wait(std::os::fd::AsFd::as_fd(&self.socket), &self.waker, timeout)? {
                return Ok(Received::TimedOut);
            }
        }
    }

    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        for message in batch.drain(..) {
            let payload = message.get_payload();
            let fate = judge(&Packet {
                id: message.get_packet_id(),
                mark: message.get_nfmark(),
                hook: message.get_hook(),
                // The crate does not tell; the hook's family is the packet's.
                family: match payload.first().map(|first| first >> 4) {
                    Some(4) => libc::NFPROTO_IPV4 as u8,
                    Some(6) => libc::NFPROTO_IPV6 as u8,
                    _ => libc::NFPROTO_UNSPEC as u8,
                },
                input: message.get_indev(),
                output: message.get_outdev(),
                payload,
                length: message.get_original_len() as u32,
                sent_to: None,
            });
            self.verdict(message, fate)?;
        }
        self.batch = batch;
        Ok(())
    }

    fn answer_held(&mut self, id: u32, fate: Fate) -> io::Result<()> {
        match self.held.iter().position(|message| message.get_packet_id() == id) {
            Some(index) if fate != Fate::Hold => {
                let message = self.held.swap_remove(index);
                self.verdict(message, fate)
            }
            _ => Ok(()),
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        self.malformed
    }
}

impl std::fmt::Debug for NfqQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NfqQueue").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// A second descriptor of the socket that has just bound queue `number`: the one of this process, of this network
/// namespace and of netfilter netlink, whose port the kernel names as the queue's.
fn find_socket(number: u16) -> io::Result<OwnedFd> {
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let port = queue_stats()?.into_iter().find(|queue| queue.number == number).ok_or_else(none)?.port;
    let here = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    let namespace = socket_option(here.as_raw_fd(), libc::SO_NETNS_COOKIE)?;
    for entry in fs::read_dir("/proc/thread-self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        let is_it = getsockname::<NetlinkAddr>(fd).is_ok_and(|address| address.pid() == port)
            && socket_option(fd, libc::SO_PROTOCOL).is_ok_and(|p| p == libc::NETLINK_NETFILTER as u64)
            && socket_option(fd, libc::SO_NETNS_COOKIE).is_ok_and(|cookie| cookie == namespace);
        if is_it {
            // SAFETY: a netfilter netlink socket of this namespace with the queue's port is the one that `nfq::Queue`
            // opened, since a port belongs to one socket; the caller keeps that queue, and so the descriptor, alive.
            let queue = unsafe { BorrowedFd::borrow_raw(fd) };
            // The crate leaves it open to child processes, which would keep the queue bound.
            fcntl(queue, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            return queue.try_clone_to_owned();
        }
    }
    Err(none())
}

/// A socket option of up to eight bytes.
fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` is a live buffer of `length` bytes; a descriptor that is closed or no socket is an error.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length) };
    Errno::result(result)?;
    // Four bytes leave the upper half zero on little-endian machines; elsewhere they are the upper half.
    Ok(if length == 4 && cfg!(target_endian = "big") { value >> 32 } else { value })
}
