//! Connections that the kernel remembers as accepted: looking through them, and taking the memory back. How it comes
//! about is `program`'s, what is still allowed is the caller's.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::marks::{Marks, Orientation};
use crate::netlink::{Channel, address, append, attribute, be32};

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_NEW: u8 = 0;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_LABELS: u16 = 22;
const CTA_LABELS_MASK: u16 = 23;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
/// Changes in one send: their refusals (a connection may end meanwhile) have to fit into the receive buffer.
const CHUNK: usize = 512;

/// A remembered connection, by the addresses that policies are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tracked {
    /// Who began it: the source of the original tuple.
    pub source: IpAddr,
    /// Whom it reached, after destination NAT: the source of the reply tuple.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port that it reached, after destination NAT; none for protocols without ports.
    pub port: Option<u16>,
    /// The port that it began at; likewise.
    pub source_port: Option<u16>,
    /// Which way round it was accepted.
    pub orientation: Orientation,
}

/// What became of a look through the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revoked {
    /// Remembered connections that were looked at.
    pub looked_at: usize,
    /// Of them, no longer remembered: their next packet comes up.
    pub taken_back: usize,
}

/// Looks once through all connections and takes our label and mark off each remembered one for which `keep` says false.
/// Every other bit of labels and marks stays.
///
/// The kernel can filter a dump by mark but not by label, so all are read; 100,000 take about 100 ms.
pub fn revoke(marks: &Marks, keep: &mut dyn FnMut(&Tracked) -> bool) -> Result<Revoked, Error> {
    // That it was met mid-stream stays known of it.
    look(marks, &marks.label_bits(Orientation::Both), marks.connection, keep)
}

/// Takes all that is ours off all connections.
pub(crate) fn clear(marks: &Marks) -> Result<Revoked, Error> {
    look(marks, &marks.all_label_bits(), marks.connection, &mut |_| false)
}

/// Takes the bits of `old` settings off all connections, but none that `new` settings use too.
pub(crate) fn forget(old: &Marks, new: &Marks) -> Result<Revoked, Error> {
    let label = if old.label == new.label { [0; 16] } else { old.all_label_bits() };
    let mark = if old.connection == new.connection { 0 } else { old.connection };
    look(old, &label, mark, &mut |_| false)
}

/// Takes these labels and this mark off all connections that have any of them and that `keep` says false of.
fn look(marks: &Marks, label: &[u8; 16], mark: u32, keep: &mut dyn FnMut(&Tracked) -> bool) -> Result<Revoked, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    channel.receive_room(8 << 20);
    let mut found: Vec<Remembered> = Vec::new();
    let dump = message(libc::AF_UNSPEC as u8, ConntrackMessage::Get(vec![]));
    channel.request("list connections", dump, NLM_F_DUMP, &mut |item| match item {
        None => found.clear(),
        Some(item) => found.extend(Remembered::parse(item.payload, label, mark, marks)),
    })?;
    let looked_at = found.len();
    // `keep` is asked only when the list is whole: an inconsistent dump is read again.
    found.retain(|remembered| !keep(&remembered.tracked));
    // One that is refused must not keep the others' memory alive.
    let (mut taken_back, mut refused) = (0, None);
    for chunk in found.chunks(CHUNK) {
        match take_back(&mut channel, chunk, label, mark) {
            Ok(connections) => taken_back += connections,
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    refused.map_or(Ok(Revoked { looked_at, taken_back }), Err)
}

/// A connection that has a bit of ours, with what it takes to name it to the kernel.
pub(crate) struct Remembered {
    family: u8,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    has_label: bool,
    has_mark: bool,
    pub(crate) tracked: Tracked,
}

impl Remembered {
    /// Reads one entry of a dump; `None` if it has no bit of ours.
    pub(crate) fn parse(payload: &[u8], label: &[u8; 16], mark: u32, marks: &Marks) -> Option<Self> {
        let (family, item) = (*payload.first()?, payload.get(4..)?);
        let labels = attribute(item, CTA_LABELS).unwrap_or_default();
        let has = |bits: &[u8; 16]| labels.iter().zip(bits).any(|(a, b)| a & b != 0);
        let has_label = has(label);
        let has_mark = attribute(item, CTA_MARK).and_then(be32).is_some_and(|m| m & mark != 0);
        if !has_label && !has_mark {
            return None;
        }
        let (original, reply) = (attribute(item, CTA_TUPLE_ORIG)?, attribute(item, CTA_TUPLE_REPLY)?);
        let reply_protocol = attribute(reply, CTA_TUPLE_PROTO)?;
        let port = |protocol| Some(u16::from_be_bytes(attribute(protocol, CTA_PROTO_SRC_PORT)?.try_into().ok()?));
        let turned = has(&marks.label_bits(Orientation::Turned));
        let as_met = has(&marks.label_bits(Orientation::AsMet)) || has_mark;
        let tracked = Tracked {
            source: source(original)?,
            destination: source(reply)?,
            protocol: *attribute(reply_protocol, CTA_PROTO_NUM)?.first()?,
            port: port(reply_protocol),
            source_port: attribute(original, CTA_TUPLE_PROTO).and_then(port),
            orientation: match (as_met, turned) {
                (true, true) => Orientation::Both,
                (false, true) => Orientation::Turned,
                _ => Orientation::AsMet,
            },
        };
        // A zone of one direction only is told inside the tuple, which goes back as it came.
        let zone = attribute(item, CTA_ZONE).map(<[u8]>::to_vec);
        Some(Self { family, tuple: original.to_vec(), zone, has_label, has_mark, tracked })
    }

    /// The message that takes our bits off.
    pub(crate) fn clear(&self, label: &[u8; 16], mark: u32) -> NetfilterMessage {
        let mut attributes = vec![DefaultNla::new(CTA_TUPLE_ORIG | NLA_F_NESTED, self.tuple.clone())];
        attributes.extend(self.zone.clone().map(|zone| DefaultNla::new(CTA_ZONE, zone)));
        // Only where it is set: a connection without room for labels refuses the attribute.
        if self.has_label {
            attributes.push(DefaultNla::new(CTA_LABELS, vec![0; 16]));
            attributes.push(DefaultNla::new(CTA_LABELS_MASK, label.to_vec()));
        }
        if self.has_mark {
            attributes.push(DefaultNla::new(CTA_MARK, vec![0; 4]));
            attributes.push(DefaultNla::new(CTA_MARK_MASK, mark.to_be_bytes().to_vec()));
        }
        message(self.family, ConntrackMessage::Other { message_type: IPCTNL_MSG_CT_NEW, attributes })
    }
}

fn source(tuple: &[u8]) -> Option<IpAddr> {
    let ip = attribute(tuple, CTA_TUPLE_IP)?;
    address(attribute(ip, CTA_IP_V4_SRC).or_else(|| attribute(ip, CTA_IP_V6_SRC))?)
}

fn message(family: u8, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::from(family), 0, 0), message)
}

/// Sends the changes of `chunk` together; returns how many connections were still there.
fn take_back(channel: &mut Channel, chunk: &[Remembered], label: &[u8; 16], mark: u32) -> Result<usize, Error> {
    let doing = "take labels off connections";
    let first = channel.sequence(chunk.len() as u32);
    let mut bytes = Vec::new();
    for (sequence, remembered) in (first..).zip(chunk) {
        append(&mut bytes, remembered.clear(label, mark), NLM_F_REQUEST | NLM_F_ACK, sequence);
    }
    channel.send(&bytes).map_err(|e| Error::io(doing, e))?;
    let (answers, lost) = channel.answers(doing, &mut |_| {})?;
    // ENOENT: the connection ended meanwhile, which is as good.
    if let Some(answer) = answers.iter().find(|a| a.code != 0 && a.code != libc::ENOENT) {
        return Err(answer.refusal(doing));
    }
    if lost || answers.len() < chunk.len() {
        return Err(Error::Answer { doing: doing.into(), why: "acknowledgements were lost".into() });
    }
    Ok(answers.iter().filter(|a| a.code == 0).count())
}
