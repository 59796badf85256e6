//! Where pods' addresses lie, so that a verdict about everybody else (`cache_closed4/6`) is not taken for one about a pod.
//!
//! ```text
//!   peers4    ip saddr & 255.255.255.0
//!   peers6    ip6 saddr & ffff:ffff:ffff:ffff::
//! ```
//!
//! Blocks of one length, because a hash of a masked address costs a packet of a flood less than a search of intervals,
//! and pods come and go far more often than blocks of them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_netfilter::nftables::SetFlags;

use super::expression::Family;
use super::layout;
use super::sets::{self, family_of};
use super::transaction::Transaction;
use crate::Error;
use crate::netlink::Channel;

/// Blocks that there is room for: pod ranges of a /10, or of a /50.
const MOST: usize = 1 << 14;
/// Elements that a set has room for: while one kind of blocks takes the place of another, both are in it.
const ROOM: u32 = 1 << 15;

/// The bits of an address that tell its block.
pub(crate) fn mask(family: Family) -> Vec<u8> {
    let bits = prefix(family);
    (0..family.length() as u8).map(|byte| if byte < bits / 8 { 0xff } else { 0 }).collect()
}

fn prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

pub(crate) fn set(family: Family) -> String {
    format!("peers{}", family.digit())
}

/// The first address of each block that overlaps one of these networks; `None` if they are more than there is room for.
pub fn peer_blocks<'n>(networks: impl IntoIterator<Item = &'n IpNet>) -> Option<BTreeSet<IpAddr>> {
    let mut blocks = BTreeSet::new();
    for network in networks {
        let prefix = prefix(family_of(&network.addr()));
        let within = IpNet::new(network.addr(), network.prefix_len().min(prefix)).ok()?;
        // One more than there is room for is enough to know.
        blocks.extend(within.subnets(prefix).ok()?.map(|block| block.network()).take(MOST + 1));
        if blocks.len() > MOST {
            return None;
        }
    }
    Some(blocks)
}

/// Adds the sets, with ids from `id` on; those that are there stay.
pub(crate) fn add_sets(transaction: &mut Transaction, id: u32) {
    for (family, id) in Family::BOTH.into_iter().zip(id..) {
        layout::add_set(transaction, id, &set(family), family, SetFlags::empty(), Some(ROOM));
    }
}

/// Empties the sets.
pub(crate) fn empty(transaction: &mut Transaction) {
    Family::BOTH.iter().for_each(|family| sets::flush(transaction, &set(*family)));
}

/// Each of these blocks joins, or leaves; the last word on one counts.
pub(crate) fn apply(transaction: &mut Transaction, peers: &[(IpAddr, bool)]) {
    let states: HashMap<IpAddr, bool> = peers.iter().copied().collect();
    for family in Family::BOTH {
        let chosen = |wanted: bool| -> Vec<IpAddr> {
            states.iter().filter(|(a, is)| family_of(a) == family && **is == wanted).map(|(a, _)| *a).collect()
        };
        sets::add_addresses(transaction, &set(family), &chosen(true));
        sets::remove(transaction, &set(family), &chosen(false));
    }
}

/// Makes the sets what `peers` says, and nothing else, by what they hold now; see [`sets::become_what`].
pub(crate) fn become_what(
    transaction: &mut Transaction,
    channel: &mut Channel,
    peers: &[(IpAddr, bool)],
) -> Result<(), Error> {
    let states: HashMap<IpAddr, bool> = peers.iter().copied().collect();
    for family in Family::BOTH {
        let wanted = states.iter().filter(|(a, is)| family_of(a) == family && **is).map(|(a, _)| *a);
        sets::become_addresses(transaction, channel, &set(family), wanted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(networks: &[&str]) -> Option<Vec<String>> {
        let networks: Vec<IpNet> = networks.iter().map(|n| n.parse().unwrap()).collect();
        Some(peer_blocks(&networks)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_network_is_the_blocks_it_overlaps() {
        let networks = ["10.1.2.0/24", "10.1.2.77/32", "10.1.4.0/23", "fd00:0:0:2::/63", "fd00::5/128"];
        let expected = ["10.1.2.0", "10.1.4.0", "10.1.5.0", "fd00::", "fd00:0:0:2::", "fd00:0:0:3::"];
        assert_eq!(blocks(&networks).unwrap(), expected);
        assert_eq!((mask(Family::V4), mask(Family::V6)), (vec![255, 255, 255, 0], [[255; 8], [0; 8]].concat()));
    }

    #[test]
    fn there_is_room_for_a_slash_ten_and_not_for_more() {
        assert_eq!(blocks(&["10.0.0.0/10"]).map(|b| b.len()), Some(MOST));
        for more in [&["10.0.0.0/10", "10.64.0.0/24"][..], &["10.0.0.0/8"], &["0.0.0.0/0"], &["fd00::/8"], &["::/0"]] {
            assert_eq!(blocks(more), None, "{more:?}");
        }
    }
}
