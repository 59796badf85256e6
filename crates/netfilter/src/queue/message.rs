//! The wire: nfnetlink messages of the queue subsystem, read and written without `unsafe`.
//!
//! Layouts: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_queue.h. Headers and attribute
//! headers are in host order, everything of the queue subsystem in network order.

use super::connection::sent_to;
use super::{Fate, Packet, QueueSettings};

/// Length of a netlink header.
const HEADER: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

const SUBSYSTEM: u16 = 3 << 8;
const MSG_PACKET: u16 = SUBSYSTEM;
const MSG_VERDICT: u16 = SUBSYSTEM | 1;
const MSG_CONFIG: u16 = SUBSYSTEM | 2;
const MSG_VERDICT_BATCH: u16 = SUBSYSTEM | 3;

const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_MARK: u16 = 3;
const NFQA_IFINDEX_INDEV: u16 = 5;
const NFQA_IFINDEX_OUTDEV: u16 = 6;
const NFQA_PAYLOAD: u16 = 10;
const NFQA_CT: u16 = 11;
const NFQA_CAP_LEN: u16 = 13;

const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQA_CFG_MASK: u16 = 4;
const NFQA_CFG_FLAGS: u16 = 5;

const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const F_FAIL_OPEN: u32 = 1;
const F_CONNTRACK: u32 = 2;
const F_GSO: u32 = 4;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_QUEUE: u32 = 3;
const NF_REPEAT: u32 = 4;

/// Sequence number of the binding request.
pub(super) const SEQUENCE_BIND: u32 = 1;
/// Sequence number of the request for packets; verdicts have 0.
pub(super) const SEQUENCE_COPY: u32 = 2;

/// One netlink message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A queued packet: everything after the netlink header.
    Packet(&'a [u8]),
    /// The kernel's answer to the request of this sequence number: an error number, or 0.
    Answer { sequence: u32, error: i32 },
    /// Anything else, or what the datagram's end cuts off.
    Other,
}

/// The messages of one datagram.
#[derive(Debug)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let Some((header, rest)) = self.0.split_first_chunk::<HEADER>() else {
            let left = std::mem::take(&mut self.0);
            return (!left.is_empty()).then_some(Message::Other);
        };
        let length = u32_ne(header, 0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        // A length past the end: the datagram was cut. What is there may still show a packet's number.
        let body = rest.get(..length.wrapping_sub(HEADER)).unwrap_or(rest);
        let cut = length < HEADER || body.len() != length - HEADER;
        self.0 = if cut { &[] } else { rest.get(aligned(body.len())..).unwrap_or_default() };
        Some(match kind {
            MSG_PACKET => Message::Packet(body),
            NLMSG_ERROR if body.len() >= 4 => Message::Answer {
                // The request's header follows the error number.
                sequence: if body.len() >= 4 + HEADER { u32_ne(body, 12) } else { 0 },
                error: u32_ne(body, 0) as i32,
            },
            _ => Message::Other,
        })
    }
}

/// A packet message without what is needed for a verdict on its merits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The packet's number, if that much is there: it can still be dropped.
    pub(super) id: Option<u32>,
}

/// Reads the body of a [`Message::Packet`].
pub(super) fn packet(body: &[u8]) -> Result<Packet<'_>, Malformed> {
    let family = *body.first().ok_or(Malformed { id: None })?;
    let mut attributes = body.get(4..).unwrap_or_default();
    let mut packet =
        Packet { id: 0, mark: 0, hook: 0, family, input: 0, output: 0, payload: &[], length: 0, sent_to: None };
    let mut id = None;
    let mut whole = None;
    let mut seen_payload = false;
    while let Some((&[l0, l1, t0, t1], rest)) = attributes.split_first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        // Without the two top flag bits (nested, network order).
        let kind = u16::from_ne_bytes([t0, t1]) & 0x3fff;
        let Some(value) = length.checked_sub(4).and_then(|length| rest.get(..length)) else {
            return Err(Malformed { id });
        };
        attributes = rest.get(aligned(value.len())..).unwrap_or_default();
        match (kind, value) {
            (NFQA_PACKET_HDR, &[a, b, c, d, _, _, hook, ..]) => {
                id = Some(u32::from_be_bytes([a, b, c, d]));
                packet.hook = hook;
            }
            (NFQA_MARK, &[a, b, c, d]) => packet.mark = u32::from_be_bytes([a, b, c, d]),
            (NFQA_IFINDEX_INDEV, &[a, b, c, d]) => packet.input = u32::from_be_bytes([a, b, c, d]),
            (NFQA_IFINDEX_OUTDEV, &[a, b, c, d]) => packet.output = u32::from_be_bytes([a, b, c, d]),
            (NFQA_CT, connection) => packet.sent_to = sent_to(connection),
            (NFQA_CAP_LEN, &[a, b, c, d]) => whole = Some(u32::from_be_bytes([a, b, c, d])),
            (NFQA_PAYLOAD, payload) => {
                packet.payload = payload;
                seen_payload = true;
            }
            _ => {}
        }
    }
    match id {
        Some(number) if seen_payload => packet.id = number,
        _ => return Err(Malformed { id }),
    }
    packet.length = whole.unwrap_or(packet.payload.len() as u32);
    Ok(packet)
}

/// Netlink messages being written, one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    start: usize,
}

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), start: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Starts a message: its netlink header and `nfgenmsg`.
    pub(super) fn begin(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Ends the message that was started last.
    pub(super) fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Takes the queue, with its length and flags; then asks for packets. Both want an answer. Until the second is
    /// served the kernel sends none, so the first answer is the first datagram.
    pub(super) fn bind(&mut self, settings: &QueueSettings) {
        let acknowledged = NLM_F_REQUEST | NLM_F_ACK;
        self.begin(MSG_CONFIG, acknowledged, SEQUENCE_BIND, 0, settings.number);
        self.attribute(NFQA_CFG_CMD, &[CMD_BIND, 0, 0, 0]);
        self.attribute(NFQA_CFG_QUEUE_MAXLEN, &settings.length.to_be_bytes());
        let wanted = [(F_GSO, settings.gso), (F_FAIL_OPEN, settings.fail_open), (F_CONNTRACK, settings.connections)];
        let flags = wanted.iter().filter(|(_, wanted)| *wanted).fold(0, |flags, (flag, _)| flags | flag);
        self.attribute(NFQA_CFG_FLAGS, &flags.to_be_bytes());
        // Asked for or not, F_CONNTRACK may be refused.
        self.attribute(NFQA_CFG_MASK, &(F_GSO | F_FAIL_OPEN | flags & F_CONNTRACK).to_be_bytes());
        self.end();
        self.begin(MSG_CONFIG, acknowledged, SEQUENCE_COPY, 0, settings.number);
        let [a, b, c, d] = settings.copy_range.to_be_bytes();
        self.attribute(NFQA_CFG_PARAMS, &[a, b, c, d, COPY_PACKET]);
        self.end();
    }

    /// One verdict: for packet `id` alone, or for it and every waiting packet before it. The packets keep their marks
    /// if `remark` is false. `Hold` is no verdict: nothing is written.
    pub(super) fn verdict(&mut self, number: u16, id: u32, fate: Fate, remark: bool, and_before: bool) {
        let (verdict, mark) = match fate {
            Fate::Accept { mark } => (NF_ACCEPT, remark.then_some(mark)),
            Fate::Drop => (NF_DROP, None),
            // NF_QUEUE_NR of linux/netfilter.h.
            Fate::Queue { number } => (NF_QUEUE | u32::from(number) << 16, None),
            Fate::Repeat => (NF_REPEAT, None),
            Fate::Hold => return,
        };
        self.begin(if and_before { MSG_VERDICT_BATCH } else { MSG_VERDICT }, NLM_F_REQUEST, 0, 0, number);
        let ([a, b, c, d], [e, f, g, h]) = (verdict.to_be_bytes(), id.to_be_bytes());
        self.attribute(NFQA_VERDICT_HDR, &[a, b, c, d, e, f, g, h]);
        if let Some(mark) = mark {
            self.attribute(NFQA_MARK, &mark.to_be_bytes());
        }
        self.end();
    }
}

fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn u32_ne(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(id: u32, payload: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.begin(MSG_PACKET, 0, 0, 2, 7);
        let [a, b, c, d] = id.to_be_bytes();
        writer.attribute(NFQA_PACKET_HDR, &[a, b, c, d, 8, 0, 4]);
        writer.attribute(NFQA_MARK, &0x4000u32.to_be_bytes());
        writer.attribute(NFQA_IFINDEX_OUTDEV, &3u32.to_be_bytes());
        writer.attribute(NFQA_CAP_LEN, &1500u32.to_be_bytes());
        writer.attribute(NFQA_PAYLOAD, payload);
        writer.end();
        writer.bytes().to_vec()
    }

    #[test]
    fn a_packet_message_is_read() {
        let bytes = queued(77, b"12345");
        let Some(Message::Packet(body)) = Messages(&bytes).next() else { panic!() };
        let expected = Packet {
            id: 77,
            mark: 0x4000,
            hook: 4,
            family: 2,
            input: 0,
            output: 3,
            payload: b"12345",
            length: 1500,
            sent_to: None,
        };
        assert_eq!(packet(body), Ok(expected));
    }

    #[test]
    fn several_messages_of_one_datagram_are_read() {
        let bytes = [queued(1, b"a"), queued(2, b"bc")].concat();
        let ids: Vec<_> = Messages(&bytes)
            .map(|m| match m {
                Message::Packet(body) => packet(body).unwrap().id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn a_message_cut_anywhere_never_shows_a_wrong_number() {
        let bytes = queued(77, b"12345678");
        for length in 0..bytes.len() {
            for message in Messages(&bytes[..length]) {
                let Message::Packet(body) = message else { continue };
                match packet(body) {
                    Ok(packet) => panic!("{packet:?} at {length}"),
                    Err(Malformed { id }) => assert!(id.is_none_or(|id| id == 77), "at {length}"),
                }
            }
        }
        // The number comes first, so even a much cut message can be answered.
        assert_eq!(packet(&bytes[16..40]), Err(Malformed { id: Some(77) }));
    }

    #[test]
    fn random_bytes_neither_panic_nor_loop() {
        let mut state = 1u64;
        let mut bytes = queued(77, b"12345678");
        for _ in 0..200_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 56) as u8;
            let mut messages = 0;
            for message in Messages(&bytes) {
                messages += 1;
                if let Message::Packet(body) = message {
                    let _ = packet(body);
                }
            }
            assert!(messages <= bytes.len() / HEADER + 1);
            if at < 8 {
                bytes = queued(77, b"12345678");
            }
        }
    }

    #[test]
    fn an_answer_shows_its_request_and_error() {
        let mut writer = Writer::default();
        writer.begin(NLMSG_ERROR, 0, 0, 0, 0);
        writer.end();
        let mut bytes = writer.bytes()[..HEADER].to_vec();
        bytes.extend((-libc::ENOENT).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(SEQUENCE_COPY.to_ne_bytes());
        bytes.extend([0; 4]);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let expected = Message::Answer { sequence: SEQUENCE_COPY, error: -libc::ENOENT };
        assert_eq!(Messages(&bytes).next(), Some(expected));
    }

    #[test]
    fn hold_is_no_verdict() {
        let mut writer = Writer::default();
        writer.verdict(7, 1, Fate::Hold, true, false);
        assert!(writer.bytes().is_empty());
    }
}
