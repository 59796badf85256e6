//! [`MmsgQueue`]: many packets a system call, in both directions.

use std::io;
use std::time::Duration;

use super::message::{self, Malformed, Message, Messages, SEQUENCE_BIND, SEQUENCE_COPY, Writer};
use super::socket::{BATCH, Buffers, Socket};
use super::{Fate, Packet, Queue, QueueError, QueueSettings, Received, Waker};

/// Room in each slot besides the copied packet. The kernel's other attributes (interfaces, hardware address, time,
/// VLAN, link-layer header) come to some 250 bytes.
const SLOT_OVERHEAD: usize = 512;
/// And for what is told of its connection (`ctnetlink_glue_build`): both tuples, state, mark, labels, some 350 bytes.
const SLOT_CONNECTION: usize = 512;

/// A verdict with a mark: header 20, verdict 12, mark 8.
const VERDICT: usize = 40;

/// A queue on a socket of its own: `recvmmsg` into buffers that are used again, all verdicts of a batch in one `send`.
///
/// Neighbouring packets with the same fate share one message (`NFQNL_MSG_VERDICT_BATCH`). Such a message is about every
/// waiting packet up to the given one, so it is used only while no packet is held.
#[derive(Debug)]
pub struct MmsgQueue {
    socket: Socket,
    number: u16,
    waker: Waker,
    buffers: Buffers,
    verdicts: Writer,
    /// The kernel tells each packet's connection.
    connections: bool,
    /// Packets that wait for [`Queue::answer_held`].
    held: usize,
    /// A packet waits that a shared verdict would sweep along: its number could not be read, or numbers did not
    /// ascend.
    astray: bool,
    /// The buffers hold packets that came with the answer to the configuration.
    unread: bool,
    /// The last batch filled all buffers: read again before waiting.
    more: bool,
    malformed: u64,
}

/// Neighbouring packets of a batch that can share one verdict.
struct Run {
    last: u32,
    fate: Fate,
    remark: bool,
    packets: usize,
}

impl MmsgQueue {
    /// Binds queue `settings.number` in the calling thread's network namespace.
    pub fn bind(settings: &QueueSettings) -> Result<Self, QueueError> {
        let number = settings.number;
        let io = |what| QueueError::io(number, what);
        let socket = Socket::open(settings.receive_buffer).map_err(io("opening a netlink socket"))?;
        let connection = if settings.connections { SLOT_CONNECTION } else { 0 };
        let mut buffers = Buffers::new((settings.copy_range as usize).min(0xffff) + SLOT_OVERHEAD + connection);
        let mut verdicts = Writer::with_capacity(BATCH * VERDICT);
        verdicts.bind(settings);
        socket.send(verdicts.bytes()).map_err(io("sending the configuration"))?;
        verdicts.clear();
        let mut queue = Self {
            socket,
            number,
            waker: Waker::new().map_err(io("making an eventfd"))?,
            buffers: Buffers::new(0),
            verdicts,
            connections: settings.connections,
            held: 0,
            astray: false,
            unread: true,
            more: false,
            malformed: 0,
        };
        match queue.confirm(&mut buffers) {
            // This kernel does not tell connections.
            Err(error) if settings.connections && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Self::bind(&QueueSettings { connections: false, ..settings.clone() });
            }
            confirmed => confirmed.map_err(|error| QueueError::refused(number, error))?,
        }
        queue.buffers = buffers;
        Ok(queue)
    }

    /// Whether the kernel tells each packet's connection, as [`QueueSettings::connections`] asks.
    pub fn tells_connections(&self) -> bool {
        self.connections
    }

    /// Reads the answer to the binding request, which the kernel gave while that was being sent: no packet can come
    /// before it. The answer to the second request may be among packets, where [`MmsgQueue::sift`] finds it.
    fn confirm(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        self.socket.receive(buffers)?;
        let mut bound = false;
        for (datagram, _) in buffers.datagrams() {
            for message in Messages(datagram) {
                match message {
                    Message::Answer { sequence: SEQUENCE_BIND, error: 0 } => bound = true,
                    Message::Answer { error, .. } if error != 0 => {
                        return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
                    }
                    _ => {}
                }
            }
        }
        if bound { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel did not answer")) }
    }

    /// How many packets the batch has; what is no packet is looked at here.
    fn sift(&mut self) -> io::Result<usize> {
        let mut packets = 0;
        for (datagram, cut) in self.buffers.datagrams() {
            self.malformed += u64::from(cut);
            for message in Messages(datagram) {
                match message {
                    Message::Packet(_) => packets += 1,
                    Message::Answer { sequence: SEQUENCE_COPY, error } if error != 0 => {
                        return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
                    }
                    // A request of ours that went well, or a verdict for a packet that is gone: somebody deleted its
                    // hook or interface.
                    Message::Answer { error: 0, .. } => {}
                    Message::Answer { .. } | Message::Other => self.malformed += 1,
                }
            }
        }
        Ok(packets)
    }

    /// Ends a run: several packets share one message. Runs grow only while that touches no other packet.
    fn flush(verdicts: &mut Writer, number: u16, run: &mut Option<Run>) {
        if let Some(run) = run.take() {
            verdicts.verdict(number, run.last, run.fate, run.remark, run.packets > 1);
        }
    }

    fn send_verdicts(&mut self) -> io::Result<()> {
        if self.verdicts.bytes().is_empty() {
            return Ok(());
        }
        let result = self.socket.send(self.verdicts.bytes());
        self.verdicts.clear();
        result
    }
}

impl Queue for MmsgQueue {
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<Received> {
        loop {
            if self.waker.take() {
                return Ok(Received::Woken);
            }
            if !std::mem::take(&mut self.unread) {
                if !std::mem::take(&mut self.more) && !self.socket.wait(&self.waker, timeout)? {
                    return Ok(Received::TimedOut);
                }
                self.socket.receive(&mut self.buffers)?;
                self.more = self.buffers.full();
            }
            match self.sift()? {
                0 => {}
                packets => return Ok(Received::Packets(packets)),
            }
        }
    }

    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        let mut run: Option<Run> = None;
        let mut before: Option<u32> = None;
        for body in self.buffers.datagrams().flat_map(|(datagram, _)| Messages(datagram)) {
            let Message::Packet(body) = body else { continue };
            let (id, fate, remark) = match message::packet(body) {
                Ok(packet) => {
                    let fate = judge(&packet);
                    (packet.id, fate, matches!(fate, Fate::Accept { mark } if mark != packet.mark))
                }
                Err(Malformed { id: Some(id) }) => {
                    self.malformed += 1;
                    (id, Fate::Drop, false)
                }
                Err(Malformed { id: None }) => {
                    self.malformed += 1;
                    Self::flush(&mut self.verdicts, self.number, &mut run);
                    self.astray = true;
                    continue;
                }
            };
            if before.replace(id).is_some_and(|before| id.wrapping_sub(before) as i32 <= 0) {
                Self::flush(&mut self.verdicts, self.number, &mut run);
                self.astray = true;
            }
            match &mut run {
                Some(run) if run.fate == fate && self.held == 0 && !self.astray => {
                    run.last = id;
                    run.remark |= remark;
                    run.packets += 1;
                }
                _ => {
                    Self::flush(&mut self.verdicts, self.number, &mut run);
                    if fate == Fate::Hold {
                        self.held += 1;
                    } else {
                        run = Some(Run { last: id, fate, remark, packets: 1 });
                    }
                }
            }
        }
        Self::flush(&mut self.verdicts, self.number, &mut run);
        self.buffers.clear();
        self.send_verdicts()
    }

    fn answer_held(&mut self, id: u32, fate: Fate) -> io::Result<()> {
        if fate == Fate::Hold {
            return Ok(());
        }
        self.held = self.held.saturating_sub(1);
        self.verdicts.verdict(self.number, id, fate, true, false);
        self.send_verdicts()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        self.malformed
    }
}
