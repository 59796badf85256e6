//! One rule of nft: which bits of marks and labels it uses, followed from register to register.

use std::collections::BTreeMap;

use super::{extensions, is_ours};
use crate::netlink::{attribute, attributes, be32, text};
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
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
// numgen, jhash and symhash: (destination, modulus, offset)
const NUMGEN: (u16, u16, u16) = (1, 2, 4);
const HASH: (u16, u16, u16) = (2, 4, 6);
// include/uapi/linux/netfilter/nf_tables_compat.h, the same for matches and targets
const NFTA_COMPAT_NAME: u16 = 1;
const NFTA_COMPAT_REV: u16 = 2;
const NFTA_COMPAT_INFO: u16 = 3;

/// A rule of another table than ours.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) uses: Uses,
    /// Chains that it leads to.
    pub(super) jumps: Vec<String>,
}

/// Whose bits a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Packet,
    Connection,
    Labels,
}

/// What a rule uses.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) packet: u32,
    pub(super) connection: u32,
    pub(super) labels: [u8; 16],
    pub(super) label: Option<u32>,
    /// A whole packet mark, as it happens to be, is saved in the connection.
    pub(super) saves: bool,
    /// Bits of packet marks are lost that the rule does not name.
    pub(super) overwrites: bool,
    pub(super) lookups: Vec<Lookup>,
}

/// Marks are looked up in a set, or come from a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lookup {
    pub(super) set: String,
    pub(super) of: Kind,
    pub(super) mask: Vec<u8>,
    /// They are the map's data, not the set's keys.
    pub(super) data: bool,
}

impl Uses {
    pub(super) fn uses(&mut self, kind: Kind, bits: &[u8]) {
        match (kind, word(bits, 0)) {
            (Kind::Packet, Some(bits)) => self.packet |= bits,
            (Kind::Connection, Some(bits)) => self.connection |= bits,
            (Kind::Labels, _) => self.labels.iter_mut().zip(bits).for_each(|(all, new)| *all |= new),
            (_, None) => {}
        }
    }

    /// What is left by `mask` is compared with a number: whoever does that with a whole mark uses the number's bits.
    pub(super) fn tests(&mut self, kind: Kind, mask: &[u8], with: &[u8]) {
        self.uses(kind, if is_whole(mask) { with } else { mask });
    }
}

/// What a register holds, as far as that is known.
#[derive(Debug, Clone)]
enum Held {
    /// The value of `of`, with the bits of `mask` kept and those of `xor` turned.
    Value { of: Kind, mask: Vec<u8>, xor: Vec<u8> },
    /// A number.
    Constant(Vec<u8>),
    /// Of these numbers.
    Between(u32, u32),
    /// What a map has.
    Looked { set: String },
}

/// Follows a rule's expressions from register to register.
#[derive(Debug, Default)]
struct Reader {
    registers: BTreeMap<u32, Held>,
    uses: Uses,
    jumps: Vec<String>,
    /// The packet's mark is known to be one number, whose bits are told.
    pinned: bool,
}

impl Rule {
    /// `payload` is what follows the netlink header; none for a rule of our own.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (family, rule) = (*payload.first()?, payload.get(4..)?);
        let table = attribute(rule, NFTA_RULE_TABLE).map(text).unwrap_or_default();
        if is_ours(family, table) {
            return None;
        }
        let chain = attribute(rule, NFTA_RULE_CHAIN).map(text).unwrap_or_default();
        let mut reader = Reader::default();
        for (_, expression) in attributes(attribute(rule, NFTA_RULE_EXPRESSIONS)?) {
            let name = attribute(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
            reader.read(name, attribute(expression, NFTA_EXPR_DATA).unwrap_or_default());
        }
        let Reader { uses, jumps, .. } = reader;
        Some(Self { family, table: table.to_owned(), chain: chain.to_owned(), uses, jumps })
    }
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
                let held = self.held(from).cloned();
                let next = match (held, value(NFTA_BITWISE_MASK), value(NFTA_BITWISE_XOR)) {
                    (Some(Held::Value { of, mask: kept, xor: turned }), Some(mask), Some(xor)) => {
                        let turned = zip(&zip(&turned, &mask, |a, b| a & b), &xor, |a, b| a ^ b);
                        Some(Held::Value { of, mask: zip(&kept, &mask, |a, b| a & b), xor: turned })
                    }
                    _ => None,
                };
                self.put(to, next);
            }
            "immediate" => self.immediate(data),
            "cmp" => {
                let held = number(NFTA_CMP_SREG).and_then(|from| self.held(from)).cloned();
                if let (Some(Held::Value { of, mask, .. }), Some(with)) = (held, value(NFTA_CMP_DATA)) {
                    self.pinned |= of == Kind::Packet && is_whole(&mask) && number(NFTA_CMP_OP) == Some(NFT_CMP_EQ);
                    self.uses.tests(of, &mask, &with);
                }
            }
            "lookup" => {
                let set = attribute(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default().to_owned();
                let key = number(NFTA_LOOKUP_SREG).and_then(|from| self.held(from).cloned());
                if let Some(Held::Value { of, mask, .. }) = key {
                    self.uses.lookups.push(Lookup { set: set.clone(), of, mask, data: false });
                }
                if let Some(to) = number(NFTA_LOOKUP_DREG) {
                    self.put(to, Some(Held::Looked { set }));
                }
            }
            "numgen" => self.generated(data, NUMGEN),
            "hash" => self.generated(data, HASH),
            "target" | "match" => {
                let name = attribute(data, NFTA_COMPAT_NAME).map(text).unwrap_or_default();
                let info = attribute(data, NFTA_COMPAT_INFO).unwrap_or_default();
                extensions::read(&mut self.uses, name, number(NFTA_COMPAT_REV).unwrap_or(0), info);
            }
            // What else writes a register writes nothing that is known here; it may be one that a mark was in.
            _ => {
                if let Some(to) = destination(name).and_then(number) {
                    self.put(to, None);
                }
            }
        }
    }

    /// A number in a register, or where to go on.
    fn immediate(&mut self, data: &[u8]) {
        let given = attribute(data, NFTA_IMMEDIATE_DATA).unwrap_or_default();
        let chain = attribute(given, NFTA_DATA_VERDICT).and_then(|verdict| attribute(verdict, NFTA_VERDICT_CHAIN));
        self.jumps.extend(chain.map(|chain| text(chain).to_owned()));
        if let Some(to) = attribute(data, NFTA_IMMEDIATE_DREG).and_then(be32) {
            self.put(to, attribute(given, NFTA_DATA_VALUE).map(|value| Held::Constant(value.to_vec())));
        }
    }

    /// A number below `modulus`, and `offset` added.
    fn generated(&mut self, data: &[u8], (to, modulus, offset): (u16, u16, u16)) {
        let number = |kind| attribute(data, kind).and_then(be32);
        if let Some(to) = number(to) {
            let (modulus, offset) = (number(modulus).unwrap_or(0), number(offset).unwrap_or(0));
            self.put(to, Some(Held::Between(offset, offset.saturating_add(modulus.saturating_sub(1)))));
        }
    }

    fn held(&self, register: u32) -> Option<&Held> {
        self.registers.get(&small(register))
    }

    /// What is not known may be as long as a register can be.
    fn put(&mut self, register: u32, held: Option<Held>) {
        let register = small(register);
        match held {
            Some(held) => drop(self.registers.insert(register, held)),
            None => self.registers.retain(|other, _| !(register..register.saturating_add(4)).contains(other)),
        }
    }

    /// An expression that writes `kind` from a register, or reads it into one.
    fn access(&mut self, kind: Kind, from: Option<u32>, to: Option<u32>) {
        if let Some(from) = from {
            self.write(kind, from);
        }
        if let Some(to) = to {
            let length = if kind == Kind::Labels { 16 } else { 4 };
            self.put(to, Some(Held::Value { of: kind, mask: vec![0xff; length], xor: vec![0; length] }));
        }
    }

    fn write(&mut self, kind: Kind, from: u32) {
        let held = self.held(from).cloned();
        let keeps = matches!(held, Some(Held::Value { of, .. }) if of == kind);
        self.uses.overwrites |= kind == Kind::Packet && !keeps;
        match held {
            Some(Held::Constant(bits)) => self.uses.uses(kind, &bits),
            Some(Held::Between(first, last)) => self.uses.uses(kind, &bits_between(first, last).to_ne_bytes()),
            Some(Held::Looked { set }) => {
                self.uses.lookups.push(Lookup { set, of: kind, mask: vec![0xff; 4], data: true });
            }
            Some(Held::Value { of, mask, xor }) if of == kind => {
                self.uses.uses(kind, &zip(&mask, &xor, |kept, turned| !kept | turned));
            }
            Some(Held::Value { of, mask, .. }) if !is_whole(&mask) => {
                self.uses.uses(kind, &mask);
                self.uses.uses(of, &mask);
            }
            Some(Held::Value { of: Kind::Packet, .. }) => self.uses.saves |= kind == Kind::Connection && !self.pinned,
            Some(Held::Value { .. }) | None => {}
        }
    }
}

/// The attribute that names the register which an expression writes.
fn destination(name: &str) -> Option<u16> {
    match name {
        "payload" | "exthdr" | "fib" | "meta" | "ct" | "rt" | "osf" | "xfrm" => Some(1),
        "socket" | "tunnel" | "byteorder" => Some(2),
        _ => None,
    }
}

/// The number of a register's first 32 bits: `NFT_REG_1` to 4 are four of those each, from `NFT_REG32_00` on.
fn small(register: u32) -> u32 {
    if (1..=4).contains(&register) { 4 + 4 * register } else { register }
}

/// All bits that the numbers from one to another have.
fn bits_between(first: u32, last: u32) -> u32 {
    // Below the highest bit in which they differ, all occur.
    let differ = u32::MAX.checked_shr((first ^ last).leading_zeros()).unwrap_or(0);
    last | differ
}

fn is_whole(mask: &[u8]) -> bool {
    mask.iter().all(|byte| *byte == 0xff)
}

fn zip(left: &[u8], right: &[u8], with: impl Fn(u8, u8) -> u8) -> Vec<u8> {
    left.iter().zip(right).map(|(left, right)| with(*left, *right)).collect()
}

/// A mark as registers and extensions have it, in the machine's order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_between_two_have_all_bits_below_the_first_that_differs() {
        let naive = |first: u32, last: u32| (first..=last).fold(0, |all, number| all | number);
        for (first, last) in [(0, 0), (5, 5), (0, 1), (0x400, 0x403), (0x3ff, 0x400), (7, 8), (100, 1000)] {
            assert_eq!(bits_between(first, last), naive(first, last), "{first:#x}..={last:#x}");
        }
        assert_eq!(bits_between(0, u32::MAX), u32::MAX);
    }
}
