//! The sets' contents: pod ranges as disjoint intervals, known-open addresses. The sets themselves are `layout`'s.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementFlags, SetElementList,
    SetElementMessage,
};

use super::expression::Family;
use super::transaction::{Transaction, body, inet};
use super::{Open, TABLE, Update, links, peers};
use crate::Error;
use crate::netlink::{Channel, attribute, attributes, be32, be64};

/// Elements in one message: an attribute holds less than 64 KiB, and an IPv6 element with its headers takes 28 bytes
/// (36 with interval flags).
const CHUNK: usize = 1700;

pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
// include/uapi/linux/netfilter/nf_tables.h: an expression, and what a counter keeps
pub(crate) const NFTA_EXPR_NAME: u16 = 1;
pub(crate) const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_PACKETS: u16 = 2;

pub(crate) type Element = ListAttribute<SetElementAttribute>;

/// The name of the set of known-open addresses.
fn open_set(way: &str, family: Family) -> String {
    format!("open_{way}{}", family.digit())
}

pub(crate) fn family_of(address: &IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// A key and its flags, as a number that can be hashed.
type Key = (Vec<u8>, u32);

fn keyed((key, flags): &Key) -> Element {
    element(key.clone(), SetElementFlags::from_bits_retain(*flags))
}

pub(crate) fn element(key: Vec<u8>, flags: SetElementFlags) -> Element {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key))];
    if !flags.is_empty() {
        attributes.push(SetElementAttribute::Flags(flags));
    }
    ListAttribute::Element(attributes)
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn message(set: &str, elements: Vec<Element>) -> SetElementMessage {
    let mut attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(set.into())];
    if !elements.is_empty() {
        attributes.push(SetElementList::Elements(elements));
    }
    SetElementMessage { attributes }
}

pub(crate) fn add(transaction: &mut Transaction, set: &str, mut elements: Vec<Element>) {
    while !elements.is_empty() {
        let rest = elements.split_off(elements.len().min(CHUNK));
        transaction.push(
            format!("add elements to set {set}"),
            NfTablesMessage::NewSetElement(message(set, elements)),
            NLM_F_CREATE,
        );
        elements = rest;
    }
}

/// Puts addresses into a set.
pub(crate) fn add_addresses(transaction: &mut Transaction, set: &str, addresses: &[IpAddr]) {
    add(transaction, set, addresses.iter().map(|a| element(octets(*a), SetElementFlags::empty())).collect());
}

/// Takes addresses out of a set.
pub(crate) fn remove(transaction: &mut Transaction, set: &str, addresses: &[IpAddr]) {
    for chunk in addresses.chunks(CHUNK) {
        let elements = || chunk.iter().map(|a| element(octets(*a), SetElementFlags::empty())).collect();
        // To delete what is not there is an error; to add what is there is none. Nobody sees the element in between.
        add(transaction, set, elements());
        let delete = NfTablesMessage::DeleteSetElement(message(set, elements()));
        transaction.push(format!("delete elements of set {set}"), delete, 0);
    }
}

pub(crate) fn flush(transaction: &mut Transaction, set: &str) {
    let all = NfTablesMessage::DeleteSetElement(message(set, vec![]));
    transaction.push(format!("empty set {set}"), all, 0);
}

/// Empties the sets of known-open addresses.
pub(crate) fn empty_open(transaction: &mut Transaction) {
    for way in ["egress", "ingress"] {
        for family in Family::BOTH {
            flush(transaction, &open_set(way, family));
        }
    }
}

/// Adds addresses to those that are judged whatever is remembered.
pub(crate) fn add_recheck(transaction: &mut Transaction, addresses: &[IpAddr]) {
    for family in Family::BOTH {
        let of_family = addresses.iter().filter(|a| family_of(a) == family);
        let of_family: Vec<IpAddr> = of_family.copied().collect();
        add_addresses(transaction, &format!("recheck{}", family.digit()), &of_family);
    }
}

/// Takes all of those out.
pub(crate) fn empty_recheck(transaction: &mut Transaction) {
    Family::BOTH.iter().for_each(|family| flush(transaction, &format!("recheck{}", family.digit())));
}

/// Makes `ranges` the pod ranges.
pub(crate) fn replace_ranges(transaction: &mut Transaction, ranges: &[IpNet]) {
    for family in Family::BOTH {
        let set = format!("ranges{}", family.digit());
        flush(transaction, &set);
        add(transaction, &set, range_elements(ranges, family).iter().map(keyed).collect());
    }
}

/// The elements of the ranges of `family`: where each begins, and where it ends.
fn range_elements(ranges: &[IpNet], family: Family) -> Vec<Key> {
    let mut elements = Vec::new();
    for (first, last) in merge(ranges, family) {
        elements.push((bytes(first, family), 0));
        // An interval up to the last address of the family has no end.
        if last < bits(family) {
            elements.push((bytes(last + 1, family), SetElementFlags::IntervalEnd.bits()));
        }
    }
    elements
}

/// Makes the sets what `update` says, and the open sets nothing else, by what they hold now: what stays is not touched,
/// so that no kernel can miss it for the moment of the change. Only right for a change that is not made if the rule set
/// changed meanwhile.
pub(crate) fn become_what(
    transaction: &mut Transaction,
    channel: &mut Channel,
    update: &Update<'_>,
) -> Result<(), Error> {
    for family in Family::BOTH {
        let Some(ranges) = update.ranges else { continue };
        let set = format!("ranges{}", family.digit());
        let wanted = range_elements(ranges, family);
        let standing = read(channel, &set)?;
        if wanted.iter().cloned().collect::<HashSet<_>>() != standing {
            flush(transaction, &set);
            add(transaction, &set, wanted.iter().map(keyed).collect());
        }
    }
    let states: HashMap<IpAddr, Open> = update.open.iter().copied().collect();
    for way in ["egress", "ingress"] {
        for family in Family::BOTH {
            let set = open_set(way, family);
            let is_open = |open: &Open| if way == "egress" { open.egress } else { open.ingress };
            let wanted = states.iter().filter(|(a, o)| family_of(a) == family && is_open(o));
            become_addresses(transaction, channel, &set, wanted.map(|(a, _)| *a))?;
        }
    }
    if let Some(links) = update.links {
        links::replace(transaction, links);
    }
    peers::become_what(transaction, channel, update.peers)
}

/// Makes a set hold these addresses and nothing else.
pub(crate) fn become_addresses(
    transaction: &mut Transaction,
    channel: &mut Channel,
    set: &str,
    wanted: impl Iterator<Item = IpAddr>,
) -> Result<(), Error> {
    let wanted: HashSet<Key> = wanted.map(|a| (octets(a), 0)).collect();
    let standing = read(channel, set)?;
    let gone: Vec<_> = standing.difference(&wanted).map(keyed).collect();
    for chunk in gone.chunks(CHUNK) {
        let delete = NfTablesMessage::DeleteSetElement(message(set, chunk.to_vec()));
        transaction.push(format!("delete elements of set {set}"), delete, 0);
    }
    add(transaction, set, wanted.difference(&standing).map(keyed).collect());
    Ok(())
}

/// What a set holds; nothing if it is not there.
fn read(channel: &mut Channel, set: &str) -> Result<HashSet<Key>, Error> {
    let get = inet(NfTablesMessage::GetSetElement(message(set, vec![])));
    let mut found = HashSet::new();
    let result = channel.request("read a set", get, NLM_F_DUMP, &mut |message| match message {
        None => found.clear(),
        Some(message) => {
            let elements = attribute(body(&message), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
            found.extend(attributes(elements).filter_map(|(_, element)| {
                let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
                let flags = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(be32).unwrap_or(0);
                Some((key.to_vec(), flags))
            }));
        }
    });
    match result {
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(HashSet::new()),
        other => other.map(|()| found),
    }
}

/// The packets that a counter has counted, of the expression that it is.
pub(crate) fn packets(expression: &[u8]) -> Option<u64> {
    be64(attribute(attribute(expression, NFTA_EXPR_DATA)?, NFTA_COUNTER_PACKETS)?)
}

/// Puts each address into the sets its state says. With `fresh` the sets are empty, so nothing is to be taken out.
pub(crate) fn apply_open(transaction: &mut Transaction, open: &[(IpAddr, Open)], fresh: bool) {
    // The last word on an address counts.
    let states: HashMap<IpAddr, Open> = open.iter().copied().collect();
    let chosen = |way: &str, family: Family, wanted: bool| -> Vec<IpAddr> {
        let is_open = |open: &Open| if way == "egress" { open.egress } else { open.ingress };
        states.iter().filter(|(a, o)| family_of(a) == family && is_open(o) == wanted).map(|(a, _)| *a).collect()
    };
    // What closes goes first: should a change have to be divided, it is not delayed by what opens.
    for wanted in [false, true] {
        for way in ["egress", "ingress"] {
            for family in Family::BOTH {
                let set = open_set(way, family);
                let addresses = if wanted || !fresh { chosen(way, family, wanted) } else { vec![] };
                if wanted {
                    add_addresses(transaction, &set, &addresses);
                } else {
                    remove(transaction, &set, &addresses);
                }
            }
        }
    }
}

/// All ones of the family's length.
fn bits(family: Family) -> u128 {
    u128::MAX >> (128 - 8 * family.length())
}

fn bytes(value: u128, family: Family) -> Vec<u8> {
    value.to_be_bytes()[16 - family.length() as usize..].to_vec()
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The ranges of `family` as (first, last), ascending; overlapping and adjacent ones joined, as an interval set wants.
fn merge(ranges: &[IpNet], family: Family) -> Vec<(u128, u128)> {
    let wanted = ranges.iter().filter(|r| family_of(&r.addr()) == family);
    let mut all: Vec<_> = wanted.map(|r| (value(r.network()), value(r.broadcast()))).collect();
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[&str], family: Family) -> Vec<String> {
        let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().unwrap()).collect();
        merge(&ranges, family).into_iter().map(|(a, b)| format!("{a:x}-{b:x}")).collect()
    }

    #[test]
    fn ranges_are_joined_where_they_touch_or_overlap() {
        let ranges = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24", "10.0.3.7/32", "fd00::/64"];
        assert_eq!(merged(&ranges, Family::V4), ["a000000-a0001ff", "a000300-a0003ff"]);
        assert_eq!(merged(&["0.0.0.0/0", "10.0.0.0/8"], Family::V4), ["0-ffffffff"]);
        assert_eq!(merged(&["255.255.255.255/32", "255.255.255.254/32"], Family::V4), ["fffffffe-ffffffff"]);
        let half = ["::/1", "8000::/1"];
        assert_eq!(merged(&half, Family::V6), [format!("0-{:x}", u128::MAX)]);
        assert!(merged(&half, Family::V4).is_empty());
    }

    #[test]
    fn host_bits_of_a_range_are_masked() {
        assert_eq!(merged(&["10.0.0.5/8"], Family::V4), ["a000000-affffff"]);
    }

    #[test]
    fn a_full_message_stays_below_the_attribute_limit() {
        use netlink_packet_core::Emitable;
        let end = SetElementFlags::IntervalEnd;
        let elements: Vec<_> = (0..CHUNK).map(|_| element(vec![0; 16], end)).collect();
        assert!(elements.as_slice().buffer_len() + 4 <= usize::from(u16::MAX));
    }
}
