//! Whether others' rules use bits of marks and labels that are ours: then each side takes the other's for its own.
//!
//! ```text
//!   rules (nft), legacy (iptables-legacy) ─▶ Uses of one rule ─▶ Survey: with chains, hooks and sets ─▶ Collisions
//!          └ extensions (MARK, CONNMARK, mark, …) ┘
//! ```
//!
//! Found is what a rule says: a bit that it sets, a mask that it sets or tests by, numbers of the sets and maps that it looks
//! marks up in; and where packets carry our bits, whole marks that are saved or overwritten. Not found: chains that only verdict maps
//! lead to, sets with a key of more than the mark, what is added to sets later, eBPF programs, routing rules.
//!
//! When to look, and telling it, is the caller's.

mod extensions;
mod legacy;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleMessage, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::marks::{Marks, Orientation};
use crate::netlink::{Channel, attribute, attributes, be32, text};
use crate::program::TABLE;
use crate::program::sets::{NFTA_DATA_VALUE, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS};
use crate::program::transaction::body;
#[cfg(feature = "fuzzing")]
pub(crate) use legacy::read as read_legacy;
pub use legacy::{Legacy, legacy};
use rules::{Kind, Lookup, Rule, Uses};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
// include/uapi/linux/netfilter.h
const NFPROTO: [u8; 3] = [1, 2, 10];
const LOCAL_OUT: u32 = 3;
const POST_ROUTING: u32 = 4;

/// A chain of another table that uses bits of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collision {
    /// The table, as nft names it (family and name), or as one of iptables-legacy.
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
    /// Whole packet marks are saved in connections where they have bits of ours. Restored, these say nothing to us (see
    /// `from_node` in `program/rules.rs`), but to whoever reads them.
    Saved,
    /// Whole packet marks are overwritten where they have bits of ours, which make the node's own packets known.
    Overwritten,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}, chain {}, ", self.table, self.chain)?;
        match self.bits {
            Bits::PacketMark(bits) => write!(f, "uses packet mark bits {bits:#x}, which are podgate's"),
            Bits::ConnectionMark(bits) => write!(f, "uses connection mark bit {bits:#x}, which is podgate's"),
            Bits::Label(label) => write!(f, "uses connection label {label}, which is podgate's"),
            Bits::Saved => write!(f, "saves whole packet marks, podgate's bits with them, in connections"),
            Bits::Overwritten => write!(f, "overwrites whole packet marks, podgate's bits with them"),
        }
    }
}

/// Looks through all rules of the calling thread's network namespace: tens of milliseconds for tens of thousands.
pub fn collisions(marks: &Marks) -> Result<BTreeSet<Collision>, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let mut survey = Survey::default();
    let get = message(0, NfTablesMessage::GetRule(RuleMessage { attributes: vec![] }));
    channel.request("list all rules", get, NLM_F_DUMP, &mut |message| match message {
        None => survey = Survey::default(),
        Some(message) => survey.extend(Rule::read(message.payload), marks),
    })?;
    if !survey.whole.is_empty() {
        survey.roots(&mut channel)?;
    }
    for (place, lookup) in std::mem::take(&mut survey.lookups) {
        let uses = elements(&mut channel, &place, &lookup)?;
        survey.found.extend(in_uses(&uses, &place.table, &place.chain, marks));
    }
    for table in legacy()?.tables() {
        survey.legacy(table.read()?, marks);
    }
    Ok(survey.found())
}

/// Whether a rule of a notice may have to do with bits of ours: `payload` is what follows the netlink header.
pub(crate) fn concerns(payload: &[u8], marks: &Marks) -> bool {
    let Some(rule) = Rule::read(payload) else { return false };
    let uses = &rule.uses;
    uses.saves || uses.overwrites || !uses.lookups.is_empty() || !in_uses(uses, "", "", marks).is_empty()
}

/// A chain, and its family's number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: u8,
    name: String,
    table: String,
    chain: String,
}

/// What all rules say, until it is known where packets come to them.
#[derive(Debug, Default)]
struct Survey {
    found: BTreeSet<Collision>,
    /// Found, if packets with bits of ours come there.
    whole: BTreeSet<Collision>,
    lookups: BTreeSet<(Place, Lookup)>,
    /// Chains where packets with bits of ours come: those of hooks, by their table.
    roots: BTreeSet<(String, String)>,
    jumps: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Survey {
    fn extend(&mut self, rule: Option<Rule>, marks: &Marks) {
        let Some(Rule { family, table: name, chain, uses, jumps }) = rule else { return };
        let table = format!("{} {name}", family_name(family));
        for lookup in uses.lookups.iter().cloned() {
            let (name, table, chain) = (name.clone(), table.clone(), chain.clone());
            self.lookups.insert((Place { family, name, table, chain }, lookup));
        }
        self.add(&table, &chain, &uses, jumps, marks);
    }

    fn add(&mut self, table: &str, chain: &str, uses: &Uses, jumps: Vec<String>, marks: &Marks) {
        self.found.extend(in_uses(uses, table, chain, marks));
        let whole = [(uses.saves, Bits::Saved), (uses.overwrites, Bits::Overwritten)];
        for (_, bits) in whole.into_iter().filter(|(does, _)| *does) {
            self.whole.insert(Collision { table: table.to_owned(), chain: chain.to_owned(), bits });
        }
        if !jumps.is_empty() {
            self.jumps.entry((table.to_owned(), chain.to_owned())).or_default().extend(jumps);
        }
    }

    fn legacy(&mut self, table: legacy::Table, marks: &Marks) {
        for rule in table.rules {
            self.add(&table.name, &rule.chain, &rule.uses, rule.jumps, marks);
        }
        self.roots.extend(table.hooks.into_iter().map(|chain| (table.name.clone(), chain)));
    }

    /// Finds the hooks of nft's chains.
    fn roots(&mut self, channel: &mut Channel) -> Result<(), Error> {
        let get = message(0, NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }));
        channel.request("list all chains", get, NLM_F_DUMP, &mut |message| match message {
            None => self.roots.clear(),
            Some(message) => self.roots.extend(root(message.payload)),
        })
    }

    fn found(mut self) -> BTreeSet<Collision> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = self.roots.into_iter().collect();
        while let Some(chain) = next.pop() {
            let jumps = self.jumps.get(&chain).into_iter().flatten();
            let beyond: Vec<_> = jumps.map(|to| (chain.0.clone(), to.clone())).collect();
            if reached.insert(chain) {
                next.extend(beyond);
            }
        }
        let is_reached = |c: &Collision| reached.contains(&(c.table.clone(), c.chain.clone()));
        self.found.extend(self.whole.into_iter().filter(is_reached));
        self.found
    }
}

/// Whether packets carry bits of ours at this point: from where the node's own are marked to where no bits are left on.
fn carries(hook: u32, priority: i32) -> bool {
    match hook {
        LOCAL_OUT => priority >= 0,
        POST_ROUTING => priority < libc::NF_IP_PRI_NAT_SRC,
        _ => false,
    }
}

/// Table and name of a chain that packets with bits of ours come to first.
fn root(payload: &[u8]) -> Option<(String, String)> {
    let (family, chain) = (*payload.first()?, payload.get(4..)?);
    let hook = attribute(chain, NFTA_CHAIN_HOOK)?;
    let number = attribute(hook, NFTA_HOOK_HOOKNUM).and_then(be32)?;
    let priority = attribute(hook, NFTA_HOOK_PRIORITY).and_then(be32)?.cast_signed();
    let of = |kind| attribute(chain, kind).map(|name| text(name).to_owned());
    let table = format!("{} {}", family_name(family), of(NFTA_CHAIN_TABLE)?);
    (NFPROTO.contains(&family) && carries(number, priority)).then_some((table, of(NFTA_CHAIN_NAME)?))
}

/// What uses of ours there are in a rule's uses.
fn in_uses(uses: &Uses, table: &str, chain: &str, marks: &Marks) -> Vec<Collision> {
    let of_ours = |label: &u8| {
        let bits = Marks { label: *label, ..*marks }.label_bits(Orientation::AsMet);
        uses.label == Some((*label).into()) || bits.iter().zip(&uses.labels).any(|(ours, theirs)| ours & theirs != 0)
    };
    let label = marks.labels().into_iter().find(of_ours);
    let bits = [
        Some(uses.packet & marks.packet).filter(|bits| *bits != 0).map(Bits::PacketMark),
        Some(uses.connection & marks.connection).filter(|bits| *bits != 0).map(Bits::ConnectionMark),
        label.map(Bits::Label),
    ];
    let collision = |bits| Collision { table: table.to_owned(), chain: chain.to_owned(), bits };
    bits.into_iter().flatten().map(collision).collect()
}

/// What a rule uses by what is in a set.
fn elements(channel: &mut Channel, place: &Place, lookup: &Lookup) -> Result<Uses, Error> {
    let of = vec![SetElementList::Table(place.name.clone()), SetElementList::Set(lookup.set.clone())];
    let get = message(place.family, NfTablesMessage::GetSetElement(SetElementMessage { attributes: of }));
    let mut uses = Uses::default();
    let asked = channel.request("list a set of marks", get, NLM_F_DUMP, &mut |message| match message {
        None => uses = Uses::default(),
        Some(message) => {
            let elements = attribute(body(&message), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
            attributes(elements).for_each(|(_, element)| in_element(&mut uses, element, lookup));
        }
    });
    match asked {
        // It is gone.
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(Uses::default()),
        asked => asked.map(|()| uses),
    }
}

fn in_element(uses: &mut Uses, element: &[u8], lookup: &Lookup) {
    let kind = if lookup.data { NFTA_SET_ELEM_DATA } else { NFTA_SET_ELEM_KEY };
    let Some(value) = attribute(element, kind).and_then(|value| attribute(value, NFTA_DATA_VALUE)) else { return };
    let ends = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(be32).unwrap_or(0) & NFT_SET_ELEM_INTERVAL_END != 0;
    // The key of more than a mark; or one past the last of a range, which is not used.
    if value.len() == if lookup.of == Kind::Labels { 16 } else { 4 } && !ends {
        uses.tests(lookup.of, &lookup.mask, value);
    }
}

fn message(family: u8, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::from(family), 0, 0), message)
}

/// As nft names them (`NFPROTO_*`).
fn family_name(number: u8) -> &'static str {
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

/// Whether this is our own table.
fn is_ours(family: u8, table: &str) -> bool {
    (family_name(family), table) == ("inet", TABLE)
}
