//! Netlink conversations: a socket, batches of nfnetlink messages that the kernel takes whole or not at all, dumps.
//!
//! Everything the kernel has to say about a request is in the socket's queue when `send` returns (netlink handles a
//! request in the sender's context), so answers are read without blocking and a missing one is an error, not a hang.
//! What goes into the messages is `program`'s, `conntrack`'s and `routes`'.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_packet_core::{
    NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
    NetlinkBuffer, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::Error;
use crate::queue::Waker;

/// Room for one read of answers; the kernel's dumps use at most 32 KiB a message.
const READ: usize = 256 * 1024;
/// A dump that the kernel keeps calling inconsistent is tried this often.
const DUMP_TRIES: usize = 20;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A netlink socket and its count of messages.
pub(crate) struct Channel {
    socket: Socket,
    port: u32,
    sequence: u32,
    read: Vec<u8>,
    send_room: usize,
}

/// What the kernel said about one message.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub sequence: u32,
    /// 0 or an errno.
    pub code: i32,
    pub detail: Option<String>,
}

/// One netlink message as received: type, flags, and what follows the netlink header.
pub(crate) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Port id of the socket whose request caused this; 0 is the kernel itself.
    pub port: u32,
    pub payload: &'a [u8],
}

impl Channel {
    /// Opens a socket of `protocol` (`NETLINK_*`) in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self, Error> {
        let failed = |source| Error::io("open a netlink socket", source);
        let mut socket = Socket::new(protocol).map_err(failed)?;
        let address = socket.bind_auto().map_err(failed)?;
        // Both only make answers shorter and clearer; an old kernel without them still answers.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let mut channel =
            Self { socket, port: address.port_number(), sequence: 0, read: Vec::with_capacity(READ), send_room: 0 };
        channel.receive_room(4 << 20);
        Ok(channel)
    }

    /// This socket's port id: what notifications about its changes carry.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Waits until something can be read or `waker` was used.
    pub(crate) fn wait(&self, waker: &Waker) -> io::Result<()> {
        let mut fds = [waker.as_fd(), self.socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Joins a multicast group.
    pub(crate) fn join(&mut self, group: u32) -> Result<(), Error> {
        self.socket.add_membership(group).map_err(|e| Error::io(format!("join netlink group {group}"), e))
    }

    /// Asks for `bytes` of receive buffer; takes what the system gives.
    pub(crate) fn receive_room(&mut self, bytes: usize) {
        if setsockopt(&self.socket, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.socket, sockopt::RcvBuf, &bytes);
        }
    }

    /// Takes `count` sequence numbers; returns the first.
    pub(crate) fn sequence(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends `bytes` (whole messages) in one go, raising the send buffer as needed.
    ///
    /// Errors: `EMSGSIZE` when the system's limit does not allow a message of that size.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // netlink_sendmsg refuses what is longer than the buffer less 32 bytes; the kernel doubles what is asked.
        let needed = bytes.len() + 1024;
        if needed > self.send_room {
            if setsockopt(&self.socket, sockopt::SndBufForce, &needed).is_err() {
                let _ = setsockopt(&self.socket, sockopt::SndBuf, &needed);
            }
            self.send_room = needed;
        }
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that one send may have whatever the system allows: an unprivileged socket's default buffer.
    pub(crate) const SMALL_SEND: usize = 128 * 1024;

    /// Reads one datagram and hands its messages to `each`, which returns whether to go on. False when nothing waits.
    ///
    /// Errors: `ENOBUFS` when messages were lost.
    pub(crate) fn read(&mut self, each: &mut dyn FnMut(Received<'_>)) -> io::Result<bool> {
        loop {
            self.read.clear();
            match self.socket.recv(&mut self.read, libc::MSG_DONTWAIT) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        messages(&self.read).for_each(each);
        Ok(true)
    }

    /// Reads every acknowledgement that waits; what else there is goes to `other`. Second value: were some lost?
    pub(crate) fn answers(
        &mut self,
        doing: &str,
        other: &mut dyn FnMut(Received<'_>),
    ) -> Result<(Vec<Answer>, bool), Error> {
        let (mut answers, mut lost) = (Vec::new(), false);
        loop {
            let read = self.read(&mut |message| {
                if message.kind == NLMSG_ERROR {
                    answers.push(Answer::parse(&message));
                } else {
                    other(message);
                }
            });
            match read {
                Ok(true) => {}
                Ok(false) => return Ok((answers, lost)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return Err(Error::io(format!("read the answer to {doing}"), error)),
            }
        }
    }

    /// Sends one request and hands its answers to `each` until they end. A dump (`NLM_F_DUMP` in `flags`) that the
    /// kernel calls inconsistent is begun again: `each` is told by `None` to forget what it had.
    pub(crate) fn request<I: NetlinkSerializable>(
        &mut self,
        doing: &str,
        message: I,
        flags: u16,
        each: &mut dyn FnMut(Option<Received<'_>>),
    ) -> Result<(), Error> {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut bytes = Vec::new();
        append(&mut bytes, message, NLM_F_REQUEST | flags | if dump { 0 } else { NLM_F_ACK }, 0);
        for _ in 0..DUMP_TRIES {
            let sequence = self.sequence(1);
            NetlinkBuffer::new(&mut bytes).set_sequence_number(sequence);
            each(None);
            self.send(&bytes).map_err(|e| Error::io(doing, e))?;
            if self.collect(doing, sequence, each)? {
                return Ok(());
            }
        }
        Err(Error::Answer { doing: doing.into(), why: "the kernel's lists changed during every reading".into() })
    }

    /// Reads until the end of the answer to `sequence`; false if the kernel called it inconsistent.
    fn collect(
        &mut self,
        doing: &str,
        sequence: u32,
        each: &mut dyn FnMut(Option<Received<'_>>),
    ) -> Result<bool, Error> {
        let (mut end, mut consistent) = (None, true);
        while end.is_none() {
            let read = self.read(&mut |message| {
                if message.sequence != sequence {
                    return;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR => end = Some(Answer::parse(&message)),
                    NLMSG_DONE => end = Some(Answer { sequence, code: done_code(message.payload), detail: None }),
                    NLMSG_OVERRUN => consistent = false,
                    _ => each(Some(message)),
                }
            });
            match read {
                Ok(true) => {}
                Ok(false) if end.is_some() => {}
                Ok(false) => {
                    return Err(Error::Answer { doing: doing.into(), why: "the answer broke off".into() });
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => consistent = false,
                Err(error) => return Err(Error::io(doing, error)),
            }
        }
        match end {
            // EINTR: the list changed under the dump in a way that it can't go on from.
            Some(answer) if answer.code == libc::EINTR => Ok(false),
            Some(answer) if answer.code != 0 => Err(answer.refusal(doing)),
            _ => Ok(consistent),
        }
    }
}

impl Answer {
    pub(crate) fn parse(message: &Received<'_>) -> Self {
        let payload = message.payload;
        let code = payload.get(..4).and_then(|b| b.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
        // struct nlmsgerr: the code, the header of the message in question, its payload unless capped, attributes.
        let mut detail = None;
        if message.flags & NLM_F_ACK_TLVS != 0 {
            let inner = payload.get(4..8).and_then(|b| b.try_into().ok()).map_or(16, u32::from_ne_bytes) as usize;
            let start = 4 + if message.flags & NLM_F_CAPPED != 0 { 16 } else { inner.next_multiple_of(4) };
            let text = attribute(payload.get(start..).unwrap_or(&[]), NLMSGERR_ATTR_MSG);
            detail = text.map(|t| String::from_utf8_lossy(t).trim_end_matches('\0').to_owned());
        }
        Self { sequence: message.sequence, code: code.wrapping_neg(), detail }
    }

    /// This answer as an error of `doing`.
    pub(crate) fn refusal(&self, doing: &str) -> Error {
        match self.code {
            libc::EPERM | libc::EACCES => Error::NotPermitted { doing: doing.into() },
            code => Error::Refused {
                doing: doing.into(),
                source: io::Error::from_raw_os_error(code),
                detail: self.detail.clone(),
            },
        }
    }
}

pub(crate) fn done_code(payload: &[u8]) -> i32 {
    payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes).wrapping_neg()
}

/// The messages of one datagram, as far as they are well formed.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let step = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(step..).unwrap_or(&[]);
        Some(Received {
            kind: message.message_type(),
            flags: message.flags(),
            sequence: message.sequence_number(),
            port: message.port_number(),
            payload: message.payload(),
        })
    })
}

/// Appends `message` to `bytes` with its netlink header.
pub(crate) fn append<I: NetlinkSerializable>(bytes: &mut Vec<u8>, message: I, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// The attributes in `payload` as (kind without flags, value), as far as they are well formed. The values live as long as
/// the payload, which those of `NlasIterator` do not.
pub(crate) fn attributes(mut payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = payload.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = payload.get(4..length)?;
        payload = payload.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of `kind` in `payload`.
pub(crate) fn attribute(payload: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(payload).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// A 32-bit number in network order, as netfilter's attributes have them.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A 64-bit number in network order.
pub(crate) fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// A string with or without its final NUL.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("").trim_end_matches('\0')
}

/// An address by its length.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
