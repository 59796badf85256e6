//! Whether other tables' rules use bits of marks and labels that are ours: then each side takes the other's for its own.
//!
//! Found is what a rule says by itself: a bit that it sets, a mask that it sets or tests by, in nft's own expressions and
//! in the extensions of iptables-nft (`MARK`, `CONNMARK`, `mark`, `connmark`, `connlabel`). Not found: numbers that come
//! from maps or sets, whole marks that are copied, rules of iptables-legacy, eBPF programs, routing rules.
//!
//! When to look, and telling it, is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::marks::Marks;
use crate::netlink::{Channel, attribute, attributes, be32, text};
use crate::program::TABLE;
use crate::program::sets::{NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFT_META_MARK: u32 = 3;
const NFT_CT_MARK: u32 = 3;
const NFT_CT_LABELS: u32 = 13;
/// Where each expression keeps its registers and its data: (source, destination, data).
const META: (u16, u16) = (3, 1);
const CT: (u16, u16) = (4, 1);
const NFTA_META_KEY: u16 = 2;
const NFTA_CT_KEY: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_DATA: u16 = 3;
// include/uapi/linux/netfilter/nf_tables_compat.h, the same for matches and targets
const NFTA_COMPAT_NAME: u16 = 1;
const NFTA_COMPAT_REV: u16 = 2;
const NFTA_COMPAT_INFO: u16 = 3;

/// A chain of another table that uses bits of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collision {
    /// The table, as nft names it: family and name.
    pub table: String,
    /// The chain in it.
    pub chain: String,
    /// What it uses.
    pub bits: Bits,
}

/// Bits of ours that somebody else uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bits {
    /// These bits of packet marks.
    PacketMark(u32),
    /// This bit of connection marks.
    ConnectionMark(u32),
    /// This label.
    Label(u8),
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}, chain {}, uses ", self.table, self.chain)?;
        match self.bits {
            Bits::PacketMark(bits) => write!(f, "packet mark bits {bits:#x}, which are podgate's"),
            Bits::ConnectionMark(bits) => write!(f, "connection mark bit {bits:#x}, which is podgate's"),
            Bits::Label(label) => write!(f, "connection label {label}, which is podgate's"),
        }
    }
}

/// Looks through all rules of the calling thread's network namespace: tens of milliseconds for tens of thousands.
pub fn collisions(marks: &Marks) -> Result<BTreeSet<Collision>, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let get = NetfilterMessage::new(header, NfTablesMessage::GetRule(RuleMessage { attributes: vec![] }));
    let mut found = BTreeSet::new();
    channel.request("list all rules", get, NLM_F_DUMP, &mut |message| match message {
        None => found.clear(),
        Some(message) => found.extend(in_rule(message.payload, marks)),
    })?;
    Ok(found)
}

/// What the rule of a listing or a notice uses of ours: `payload` is what follows the netlink header.
pub(crate) fn in_rule(payload: &[u8], marks: &Marks) -> Vec<Collision> {
    let (Some(family), Some(rule)) = (payload.first().copied().map(family), payload.get(4..)) else { return vec![] };
    let table = attribute(rule, NFTA_RULE_TABLE).map(text).unwrap_or_default();
    if (family, table) == ("inet", TABLE) {
        return vec![];
    }
    let Some(expressions) = attribute(rule, NFTA_RULE_EXPRESSIONS) else { return vec![] };
    let mut reader = Reader::default();
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
        reader.read(name, attribute(expression, NFTA_EXPR_DATA).unwrap_or_default());
    }
    let used = reader.used;
    let label = marks.label_bits().iter().zip(&used.labels).any(|(ours, theirs)| ours & theirs != 0)
        || used.label == Some(marks.label.into());
    let bits = [
        Some(used.packet & marks.packet).filter(|bits| *bits != 0).map(Bits::PacketMark),
        Some(used.connection & marks.connection).filter(|bits| *bits != 0).map(Bits::ConnectionMark),
        label.then_some(Bits::Label(marks.label)),
    ];
    let chain = attribute(rule, NFTA_RULE_CHAIN).map(text).unwrap_or_default();
    let collision = |bits| Collision { table: format!("{family} {table}"), chain: chain.to_owned(), bits };
    bits.into_iter().flatten().map(collision).collect()
}

/// As nft names them (`NFPROTO_*`).
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

/// Whose bits a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Packet,
    Connection,
    Labels,
}

/// What a register holds, as far as that is known.
#[derive(Debug, Clone)]
enum Held {
    /// The value of `of`, with the bits of `mask` kept and those of `xor` turned.
    Value { of: Kind, mask: Vec<u8>, xor: Vec<u8> },
    /// A number.
    Constant(Vec<u8>),
}

/// Bits that a rule uses.
#[derive(Debug, Default)]
struct Used {
    packet: u32,
    connection: u32,
    labels: [u8; 16],
    label: Option<u32>,
}

/// Follows a rule's expressions from register to register.
#[derive(Debug, Default)]
struct Reader {
    registers: BTreeMap<u32, Held>,
    used: Used,
}

impl Reader {
    fn read(&mut self, name: &str, data: &[u8]) {
        let number = |kind| attribute(data, kind).and_then(be32);
        let value = |kind| attribute(data, kind).and_then(|d| attribute(d, NFTA_DATA_VALUE)).map(<[u8]>::to_vec);
        match name {
            "meta" if number(NFTA_META_KEY) == Some(NFT_META_MARK) => {
                self.access(Kind::Packet, number(META.0), number(META.1));
            }
            "ct" if number(NFTA_CT_KEY) == Some(NFT_CT_MARK) => {
                self.access(Kind::Connection, number(CT.0), number(CT.1));
            }
            "ct" if number(NFTA_CT_KEY) == Some(NFT_CT_LABELS) => {
                self.access(Kind::Labels, number(CT.0), number(CT.1));
            }
            "bitwise" => {
                let (Some(from), Some(to)) = (number(NFTA_BITWISE_SREG), number(NFTA_BITWISE_DREG)) else { return };
                let held = self.registers.get(&from).cloned();
                let next = match (held, value(NFTA_BITWISE_MASK), value(NFTA_BITWISE_XOR)) {
                    (Some(Held::Value { of, mask: kept, xor: turned }), Some(mask), Some(xor)) => {
                        let turned = zip(&zip(&turned, &mask, |a, b| a & b), &xor, |a, b| a ^ b);
                        Some(Held::Value { of, mask: zip(&kept, &mask, |a, b| a & b), xor: turned })
                    }
                    _ => None,
                };
                self.put(to, next);
            }
            "immediate" => {
                let Some(to) = number(NFTA_IMMEDIATE_DREG) else { return };
                self.put(to, value(NFTA_IMMEDIATE_DATA).map(Held::Constant));
            }
            "cmp" => {
                let held = number(NFTA_CMP_SREG).and_then(|from| self.registers.get(&from));
                if let (Some(Held::Value { of, mask, .. }), Some(with)) = (held, value(NFTA_CMP_DATA)) {
                    // A whole mark is compared with a number: whoever does that uses the number's bits.
                    let (of, bits) = (*of, if is_whole(mask) { with } else { mask.clone() });
                    self.uses(of, &bits);
                }
            }
            "target" | "match" => {
                let name = attribute(data, NFTA_COMPAT_NAME).map(text).unwrap_or_default();
                let info = attribute(data, NFTA_COMPAT_INFO).unwrap_or_default();
                self.extension(name, number(NFTA_COMPAT_REV).unwrap_or(0), info);
            }
            // What else writes a register writes nothing that is known here.
            _ => {}
        }
    }

    fn put(&mut self, register: u32, held: Option<Held>) {
        match held {
            Some(held) => drop(self.registers.insert(register, held)),
            None => drop(self.registers.remove(&register)),
        }
    }

    /// An expression that writes `kind` from a register, or reads it into one.
    fn access(&mut self, kind: Kind, from: Option<u32>, to: Option<u32>) {
        if let Some(from) = from {
            match self.registers.get(&from).cloned() {
                Some(Held::Constant(bits)) => self.uses(kind, &bits),
                Some(Held::Value { of, mask, xor }) if of == kind => {
                    self.uses(kind, &zip(&mask, &xor, |kept, turned| !kept | turned));
                }
                Some(Held::Value { of, mask, .. }) if !is_whole(&mask) => {
                    self.uses(kind, &mask);
                    self.uses(of, &mask);
                }
                Some(Held::Value { .. }) | None => {}
            }
        }
        if let Some(to) = to {
            let length = if kind == Kind::Labels { 16 } else { 4 };
            self.put(to, Some(Held::Value { of: kind, mask: vec![0xff; length], xor: vec![0; length] }));
        }
    }

    fn uses(&mut self, kind: Kind, bits: &[u8]) {
        match (kind, word(bits, 0)) {
            (Kind::Packet, Some(bits)) => self.used.packet |= bits,
            (Kind::Connection, Some(bits)) => self.used.connection |= bits,
            (Kind::Labels, _) => self.used.labels.iter_mut().zip(bits).for_each(|(all, new)| *all |= new),
            (_, None) => {}
        }
    }

    /// An extension of iptables, in the layout of include/uapi/linux/netfilter/xt_mark.h, xt_connmark.h and xt_connlabel.h.
    fn extension(&mut self, name: &str, revision: u32, info: &[u8]) {
        let number = |index: usize| word(info, index * 4).unwrap_or(0);
        let masked = |value: u32, mask: u32| if mask == u32::MAX { value } else { value | mask };
        let partial = |mask: u32| if mask == u32::MAX { 0 } else { mask };
        match (name, revision) {
            ("MARK", 2) | ("mark", 1) => self.used.packet |= masked(number(0), number(1)),
            ("connmark", 1) => self.used.connection |= masked(number(0), number(1)),
            ("CONNMARK", 1 | 2) => {
                let mode = info.get(if revision == 1 { 12 } else { 14 });
                if mode == Some(&0) {
                    self.used.connection |= masked(number(0), number(1));
                } else {
                    // Saved or restored.
                    self.used.connection |= partial(number(1));
                    self.used.packet |= partial(number(2));
                }
            }
            ("connlabel", _) => {
                let bit = info.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
                self.used.label = bit.map(u32::from).or(self.used.label);
            }
            _ => {}
        }
    }
}

fn is_whole(mask: &[u8]) -> bool {
    mask.iter().all(|byte| *byte == 0xff)
}

fn zip(left: &[u8], right: &[u8], with: impl Fn(u8, u8) -> u8) -> Vec<u8> {
    left.iter().zip(right).map(|(left, right)| with(*left, *right)).collect()
}

/// A mark as registers and extensions have it, in the machine's order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
