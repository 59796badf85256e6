//! The links that lead to pods: what begins a connection and comes by one of them with a source that is not reached over it
//! is forged, and dropped where it is forwarded.
//!
//! ```text
//!   pod_links    meta iif
//! ```
//!
//! Conntrack takes what comes back for an answer: whoever writes another's address as its source, and itself (or a friend)
//! as the destination, could send to that other as if it had been asked to.

use std::collections::BTreeSet;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute, RuleMessage, SetElementFlags, SetFlags};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::TABLE;
use super::expression::{NEW, comes_by, counter, drop, no_way_back, state};
use super::layout;
use super::rules::{Rule, rule};
use super::sets::{self, NFTA_EXPR_NAME, element, flush, packets};
use super::transaction::{Transaction, body, inet};
use crate::Error;
use crate::netlink::{Channel, attribute, attributes, text};

/// The set of links.
const SET: &str = "pod_links";
/// The chain of the only rule that has a counter in it.
pub(crate) const CHAIN: &str = "from_pod";
/// nft's number of the data type `iface_index`, by which it prints keys (include/datatype.h).
const TYPE_IFINDEX: u32 = 20;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// Adds the set; it stays if it is there.
pub(crate) fn add_set(transaction: &mut Transaction, id: u32) {
    layout::add_set_of(transaction, id, SET, (TYPE_IFINDEX, 4), SetFlags::empty(), None);
}

/// What is done with packets that are forwarded.
pub(crate) fn check() -> Vec<Rule> {
    vec![rule(CHAIN, [state(NEW, true), comes_by(SET), no_way_back(), counter(), drop()])]
}

/// Makes the set these links and nothing else, whatever it holds.
pub(crate) fn replace(transaction: &mut Transaction, links: &BTreeSet<u32>) {
    flush(transaction, SET);
    let elements = links.iter().map(|link| element(link.to_ne_bytes().to_vec(), SetElementFlags::empty()));
    sets::add(transaction, SET, elements.collect());
}

/// Packets that were dropped as forged since the rules were written last; zero where they are not there.
pub fn forged() -> Result<u64, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let filter = vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(CHAIN.into())];
    let get = inet(NfTablesMessage::GetRule(RuleMessage { attributes: filter }));
    let mut counted = 0;
    let result = channel.request("read a counter", get, NLM_F_DUMP, &mut |message| match message {
        None => counted = 0,
        Some(message) => {
            let expressions = attribute(body(&message), NFTA_RULE_EXPRESSIONS).unwrap_or(&[]);
            let counters = attributes(expressions)
                .map(|(_, expression)| expression)
                .filter(|expression| attribute(expression, NFTA_EXPR_NAME).map(text) == Some("counter"));
            counted += counters.filter_map(packets).sum::<u64>();
        }
    });
    match result {
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(0),
        other => other.map(|()| counted),
    }
}
