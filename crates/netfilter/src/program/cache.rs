//! The verdict cache: sets of what was decided already, so that a repeated connection does not come up again.
//!
//! ```text
//!   cache_accept4/6   source . destination . protocol . destination port    accept, and remember the connection
//!   cache_drop4/6     the same                                              drop
//!   cache_closed4/6   destination . protocol . destination port             drop, unless a pod may be the source (`peers`)
//! ```
//!
//! Each element counts its packets. What it counted is read from the notice of its deletion (`NLM_F_ECHO`), or by a
//! dump; the timeout is only for the case that nobody is there to delete it, and loses its count.
//!
//! Here: elements. Which chains look them up is `rules`'; what is worth keeping, and until when it is right, is decided
//! above this crate.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetAttribute, SetElementFlags, SetFlags, SetMessage};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::TABLE;
use super::expression::Family;
use super::sets::{
    Element, NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, element,
    family_of, message, octets, packets,
};
use super::transaction::{Transaction, body, inet};
use crate::Error;
use crate::netlink::{Channel, Received, address, attribute, attributes, text};

/// How long the kernel keeps an element that nobody deletes, in milliseconds: no longer, as without an agent nobody
/// knows whose an address is.
const TIMEOUT: u64 = 20_000;
/// Elements in one message; see `sets`. One of IPv6 takes 56 bytes.
const CHUNK: usize = 1000;

const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_SET_EXPR: u16 = 17;
// nft's data types (include/datatype.h); a concatenation has six bits for each.
const TYPE_BITS: u32 = 6;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;

/// What the kernel does with the packets of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cached {
    /// Accepts them, and remembers their connections as a verdict does.
    Accept,
    /// Drops them.
    Drop,
    /// Drops them whoever sent them, if the source is in no block that may hold pods ([`Update::peers`](crate::Update)).
    Closed,
}

/// A verdict that the kernel repeats: for the first packets of connections, in their original direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheEntry {
    /// What is done.
    pub verdict: Cached,
    /// The source address. For [`Cached::Closed`] it counts by its family alone and should be unspecified.
    pub source: IpAddr,
    /// The destination address, of the same family, after destination NAT.
    pub destination: IpAddr,
    /// TCP, UDP or SCTP, by their IANA numbers.
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
}

/// What an entry did in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheHits {
    /// The entry.
    pub entry: CacheEntry,
    /// Packets, since it was added.
    pub packets: u64,
}

/// What is to be forgotten with a change.
#[derive(Debug, Clone, Copy)]
pub enum Forget<'a> {
    /// These entries, all of which must be there.
    These(&'a [CacheEntry]),
    /// Everything.
    All,
}

impl Default for Forget<'_> {
    fn default() -> Self {
        Forget::These(&[])
    }
}

impl Cached {
    const ALL: [Cached; 3] = [Cached::Accept, Cached::Drop, Cached::Closed];

    pub(crate) fn set(self, family: Family) -> String {
        let name = match self {
            Cached::Accept => "accept",
            Cached::Drop => "drop",
            Cached::Closed => "closed",
        };
        format!("cache_{name}{}", family.digit())
    }

    fn has_source(self) -> bool {
        self != Cached::Closed
    }

    /// Bytes of a key: each field fills 32-bit registers.
    fn key_length(self, family: Family) -> u32 {
        family.length() * if self.has_source() { 2 } else { 1 } + 8
    }
}

impl CacheEntry {
    /// A drop of the same, for every source that is no pod.
    pub fn closed(self) -> Self {
        Self { verdict: Cached::Closed, source: anyone(self.destination), ..self }
    }

    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(40);
        if self.verdict.has_source() {
            key.extend(octets(self.source));
        }
        key.extend(octets(self.destination));
        key.extend([self.protocol, 0, 0, 0]);
        key.extend(self.port.to_be_bytes());
        key.extend([0, 0]);
        key
    }

    /// From the name of its set and its key.
    fn parse(set: &str, key: &[u8]) -> Option<Self> {
        let (verdict, family) = places().find(|(verdict, family)| verdict.set(*family) == set)?;
        if key.len() != verdict.key_length(family) as usize {
            return None;
        }
        let length = family.length() as usize;
        let (addresses, rest) = key.split_at(key.len() - 8);
        let destination = address(&addresses[addresses.len() - length..])?;
        let source = match verdict.has_source() {
            true => address(&addresses[..length])?,
            false => anyone(destination),
        };
        Some(Self { verdict, source, destination, protocol: rest[0], port: u16::from_be_bytes([rest[4], rest[5]]) })
    }
}

/// The unspecified address of the same family.
fn anyone(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

/// Adds the sets, with ids from `id` on; those that are there stay.
pub(crate) fn add_sets(transaction: &mut Transaction, mut id: u32) {
    for (verdict, family) in places() {
        let kind = family.data_type();
        let source = verdict.has_source().then_some(kind);
        let types = source.into_iter().chain([kind, TYPE_PROTOCOL, TYPE_SERVICE]);
        let name = verdict.set(family);
        let mut attributes = vec![
            SetAttribute::Table(TABLE.into()),
            SetAttribute::Name(name.clone()),
            SetAttribute::Flags(SetFlags::Timeout),
            SetAttribute::KeyType(types.fold(0, |all, kind| all << TYPE_BITS | kind)),
            SetAttribute::KeyLen(verdict.key_length(family)),
            SetAttribute::Timeout(TIMEOUT),
            SetAttribute::Id(id),
        ];
        // Each element gets a counter of its own.
        attributes.push(SetAttribute::Other(counters()));
        transaction.push(format!("add set {name}"), NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
        id += 1;
    }
}

/// `NFTA_SET_EXPR`: what each element of a set has (kernel 5.7).
fn counters() -> DefaultNla {
    let expression = [
        DefaultNla::new(NFTA_EXPR_NAME, b"counter\0".to_vec()),
        DefaultNla::new(NFTA_EXPR_DATA | NLA_F_NESTED, Vec::new()),
    ];
    let mut bytes = vec![0; expression.as_slice().buffer_len()];
    expression.as_slice().emit(&mut bytes);
    DefaultNla::new(NFTA_SET_EXPR | NLA_F_NESTED, bytes)
}

/// Adds entries, none of which may be there yet.
pub(crate) fn add(transaction: &mut Transaction, entries: &[CacheEntry]) {
    in_sets(entries, |set, elements| {
        let add = NfTablesMessage::NewSetElement(message(set, elements));
        transaction.push(format!("add elements to set {set}"), add, NLM_F_CREATE);
    });
}

/// Deletes entries; the kernel's notices tell what each did (see [`deleted`]).
pub(crate) fn forget(transaction: &mut Transaction, what: Forget<'_>) {
    match what {
        Forget::These(entries) => in_sets(entries, |set, elements| {
            let delete = NfTablesMessage::DeleteSetElement(message(set, elements));
            transaction.push(format!("delete elements of set {set}"), delete, NLM_F_ECHO);
        }),
        Forget::All => {
            for (verdict, family) in places() {
                let set = verdict.set(family);
                let all = NfTablesMessage::DeleteSetElement(message(&set, vec![]));
                transaction.push(format!("empty set {set}"), all, NLM_F_ECHO);
            }
        }
    }
}

/// What the entries did that a notice says are deleted.
pub(crate) fn deleted(notice: &Received<'_>, hits: &mut Vec<CacheHits>) {
    if notice.kind & 0xff == NFT_MSG_DELSETELEM {
        read(body(notice), hits);
    }
}

/// What all entries that are in the kernel did so far, in the calling thread's network namespace.
pub fn cache_hits() -> Result<Vec<CacheHits>, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let mut all = Vec::new();
    for (verdict, family) in places() {
        let before = all.len();
        let get = inet(NfTablesMessage::GetSetElement(message(&verdict.set(family), vec![])));
        let result = channel.request("read the verdict cache", get, NLM_F_DUMP, &mut |message| match message {
            None => all.truncate(before),
            Some(message) => read(body(&message), &mut all),
        });
        match result {
            Err(error) if error.refused_with() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(all)
}

fn places() -> impl Iterator<Item = (Cached, Family)> {
    Cached::ALL.into_iter().flat_map(|verdict| Family::BOTH.map(|family| (verdict, family)))
}

/// Calls `each` with every set that some of the entries are in, and their elements, a message's worth at a time.
fn in_sets(entries: &[CacheEntry], mut each: impl FnMut(&str, Vec<Element>)) {
    for (verdict, family) in places() {
        let here: Vec<_> =
            entries.iter().filter(|e| (e.verdict, family_of(&e.destination)) == (verdict, family)).collect();
        for chunk in here.chunks(CHUNK) {
            let elements = chunk.iter().map(|entry| element(entry.key(), SetElementFlags::empty()));
            each(&verdict.set(family), elements.collect());
        }
    }
}

/// Reads the elements of one message; those of other sets are left out.
fn read(message: &[u8], hits: &mut Vec<CacheHits>) {
    let set = attribute(message, NFTA_SET_ELEM_LIST_SET).map_or("", text);
    let elements = attribute(message, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
    hits.extend(attributes(elements).filter_map(|(_, element)| {
        let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
        let packets = attribute(element, NFTA_SET_ELEM_EXPR).and_then(packets).unwrap_or(0);
        Some(CacheHits { entry: CacheEntry::parse(set, key)?, packets })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_known_by_its_set_and_key() {
        for (verdict, family) in places() {
            let end = |last| match family {
                Family::V4 => IpAddr::from([10, 0, 0, last]),
                Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]),
            };
            let source = if verdict.has_source() { end(1) } else { anyone(end(2)) };
            let entry = CacheEntry { verdict, source, destination: end(2), protocol: 6, port: 0x1234 };
            assert_eq!(entry.key().len(), verdict.key_length(family) as usize);
            assert_eq!(CacheEntry::parse(&verdict.set(family), &entry.key()), Some(entry));
            assert_eq!(CacheEntry::parse("recheck4", &entry.key()), None);
            assert_eq!(CacheEntry::parse(&verdict.set(family), &entry.key()[1..]), None);
        }
    }

    #[test]
    fn a_full_message_stays_below_the_attribute_limit() {
        let (source, destination) = (IpAddr::from([1; 16]), IpAddr::from([2; 16]));
        let entry = CacheEntry { verdict: Cached::Drop, source, destination, protocol: 6, port: 1 };
        in_sets(&vec![entry; CHUNK], |_, elements| {
            assert!(elements.as_slice().buffer_len() + 4 <= usize::from(u16::MAX));
        });
    }
}
