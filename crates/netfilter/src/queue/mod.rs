//! NFQUEUE sockets: packets up, verdicts down.
//!
//! ```text
//!   kernel ──▶ receive ── one batch in own buffers ──▶ answer(judge) ── Fate each ──▶ kernel
//!                │ Waker (eventfd) ends the wait                        │ Hold: later, by answer_held
//!   Queue ◀── MmsgQueue   recvmmsg, all verdicts of a batch in one send
//!         ◀── NfqQueue    the `nfq` crate: the rival that the other is measured against
//! ```
//!
//! A queue belongs to the network namespace of the thread that binds it. Closing it makes the kernel drop every packet
//! that still waits in it. Not here: what a packet's fate is, and the rules that send packets here.

mod connection;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod message;
mod mmsg;
mod nfq;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod waker;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::nfq::NfqQueue;
pub use mmsg::MmsgQueue;
pub use stats::{QueueStats, queue_stats};
pub use waker::Waker;

/// Packets of a batch at most. One of so many likely left others waiting.
pub const BATCH: usize = socket::BATCH;

/// One queued packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its number in this queue.
    pub id: u32,
    /// Its whole mark, others' bits included.
    pub mark: u32,
    /// The hook it waits in: `NF_INET_*` of linux/netfilter.h.
    pub hook: u8,
    /// The protocol family of the hook, `NFPROTO_*` of linux/netfilter.h (2 IPv4, 10 IPv6).
    pub family: u8,
    /// Index of the interface it came in by; 0 if it was made here.
    pub input: u32,
    /// Index of the interface it leaves by; 0 if it is for this host.
    pub output: u32,
    /// Its first bytes, from the IP header; at most [`QueueSettings::copy_range`].
    pub payload: &'a [u8],
    /// Its whole length in bytes; for a segmentation-offloaded packet that of all segments.
    pub length: u32,
    /// Where its connection's first packet was sent to, before any destination NAT; with
    /// [`QueueSettings::connections`], on kernels that tell it.
    pub sent_to: Option<SocketAddr>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, its whole mark replaced by this one.
    Accept {
        /// The new mark: the old one, with what is to be said changed.
        mark: u32,
    },
    /// It goes nowhere.
    Drop,
    /// It waits at the same place in another queue, with the mark that it came with; it is lost if nobody has that one,
    /// or it is full. The kernel keeps the order (`nf_reinject`, `NF_QUEUE` in net/netfilter).
    Queue {
        /// That queue's number.
        number: u16,
    },
    /// It goes through the rules of its base chain once more, from their start and as they are now.
    Repeat,
    /// Not known yet: [`Queue::answer_held`] must tell, or it waits until the queue is closed.
    Hold,
}

/// Why [`Queue::receive`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many packets wait for [`Queue::answer`].
    Packets(usize),
    /// A [`Waker`] was used.
    Woken,
    /// The time was up.
    TimedOut,
}

/// One queue, used by one thread.
pub trait Queue: Send {
    /// Waits for packets, at most for `timeout` (`None`: for ever), and takes one batch into own buffers. A [`Waker`]
    /// ends the wait; it is seen even when packets never cease. The packets of the batch before must be answered.
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<Received>;

    /// Asks `judge` for the fate of each packet of the batch, in order, and sends the verdicts in one go.
    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()>;

    /// The verdict for a packet that was given [`Fate::Hold`]. A second `Hold` changes nothing.
    fn answer_held(&mut self, id: u32, fate: Fate) -> io::Result<()>;

    /// Ends [`Queue::receive`] from any thread.
    fn waker(&self) -> Waker;

    /// How many netlink messages could not be used so far: malformed ones, and refused verdicts (the packet was gone).
    fn malformed(&self) -> u64;
}

/// What a queue is bound with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its number.
    pub number: u16,
    /// Bytes of each packet to copy. The default, 128, holds two IPv6 headers, an ICMPv6 header and the ports of the
    /// packet inside (104), and some extension headers.
    pub copy_range: u32,
    /// Packets that may wait for a verdict. The default, 4096, is some 30 ms of work for one worker; the kernel's own
    /// 1024 are lost in 5 ms at 200,000 packets a second.
    pub length: u32,
    /// Bytes of socket buffer, as `SO_RCVBUFFORCE` counts. The kernel charges each waiting message with the memory it
    /// takes (up to 1,280 bytes for one with 128 bytes of packet) and doubles what is asked for; the default, 4 MiB,
    /// holds twice the default length, so that the length is what limits.
    pub receive_buffer: usize,
    /// Take segmentation-offloaded packets whole. Without, the kernel cuts them up for the queue: many times the work,
    /// and the flow loses its offload.
    pub gso: bool,
    /// Let packets pass unjudged when the queue is full, instead of dropping them.
    pub fail_open: bool,
    /// Have the kernel tell each packet's connection, if it can (`CONFIG_NETFILTER_NETLINK_GLUE_CT`): some 200 bytes more
    /// a packet. [`MmsgQueue`] only.
    pub connections: bool,
}

impl QueueSettings {
    /// The defaults, for this queue number.
    pub fn new(number: u16) -> Self {
        Self {
            number,
            copy_range: 128,
            length: 4096,
            receive_buffer: 4 << 20,
            gso: true,
            fail_open: false,
            connections: false,
        }
    }
}

/// Why a queue cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Somebody else has it: the kernel gives a queue to one socket only.
    #[error(
        "queue {number} is in use by another process (netlink port {port}): end that process, or choose other queue \
         numbers"
    )]
    InUse {
        /// The queue.
        number: u16,
        /// The netlink port that has it; for the first socket of a process, its process id.
        port: u32,
    },
    /// The kernel refuses.
    #[error("queue {number}: not permitted: podgate needs CAP_NET_ADMIN in this network namespace")]
    NotPermitted {
        /// The queue.
        number: u16,
    },
    /// The kernel cannot do what is asked.
    #[error(
        "queue {number}: this kernel cannot do what is asked ({source}): it needs CONFIG_NETFILTER_NETLINK_QUEUE (module \
         nfnetlink_queue) and Linux 3.10 or later"
    )]
    Unsupported {
        /// The queue.
        number: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("queue {number}: {what}: {source}")]
    Io {
        /// The queue.
        number: u16,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl QueueError {
    /// What the kernel's answer to a configuration request means.
    fn refused(number: u16, source: io::Error) -> Self {
        let taken = || queue_stats().ok()?.into_iter().find(|queue| queue.number == number);
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EBUSY) => match taken() {
                Some(other) => QueueError::InUse { number, port: other.port },
                None => QueueError::NotPermitted { number },
            },
            // EINVAL: nfnetlink knows no such subsystem.
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL) => QueueError::Unsupported { number, source },
            _ => QueueError::Io { number, what: "configuration", source },
        }
    }

    fn io(number: u16, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| QueueError::Io { number, what, source }
    }
}
