//! Shares of the queue: while more comes up than the workers can judge, no pod's packets take more than so many a second.
//!
//! ```text
//!   to_queue    from a local pod        update @share4/6 { source limit over rate } drop
//!               else, to a local pod    update @share4/6 { destination limit over rate } drop
//!               addresses that found no room in the set: one share for all of them
//!               queue
//! ```
//!
//! **Whose share.** A packet that a local pod sent counts as that pod's, whoever gets it: else one pod could use up
//! another's. What comes from outside counts as the pod's that it is for, as its source may be forged. So a flood takes
//! its own pod's share only. (A pod that forges *pods'* addresses takes theirs; that a pod's link lets no other source
//! in is the network plugin's, or `rp_filter`'s.)
//!
//! **What it costs.** Normally nothing: the rules are there only while there are shares. An address gets its element
//! from its first packet, in the kernel; an element counts what it dropped, and is gone a minute after its last packet.
//!
//! The limits of elements cannot be changed: with each new share the sets begin anew. In between they are read while no
//! rule uses them, so no count is lost; the rules are away for a millisecond, which the queue's length covers.
//!
//! **Where packets may pass unjudged** (`bypass`), what is over a share passes instead of being dropped, as it would if
//! the queue were full; but everybody else's packets go on being judged.
//!
//! Here: rules, sets, and what the elements count. When there are shares and how large they are is decided above this
//! crate.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetAttribute, SetDescription, SetFlags, SetMessage};

use super::expression::{
    End, Expression, Family, Statement, accept, address_in, address_not_in, counter, drop, limit_over, update,
};
use super::rules::{self, Rule};
use super::sets::{
    NFTA_DATA_VALUE, NFTA_EXPR_NAME, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, flush, message, packets,
};
use super::standing::Standing;
use super::transaction::{Transaction, body, inet};
use super::{Program, TABLE, layout, ownership};
use crate::Error;
use crate::netlink::{Channel, address, attribute, attributes, text};

/// Addresses with a share of their own: many times the pods of a node. An element takes some 300 bytes.
const ROOM: u32 = 4096;
/// How long an element outlives its last packet, in milliseconds: many times longer than its count waits to be read.
const TIMEOUT: u64 = 60_000;

const NFTA_SET_ELEM_EXPRESSIONS: u16 = 11;

/// How much of the queue one pod may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Packets per second; at least 1.
    pub rate: u32,
    /// Packets at once, after a time without any.
    pub burst: u32,
}

/// What a pod had over its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// The pod's address.
    pub pod: IpAddr,
    /// Packets that were dropped (or, where packets may pass unjudged, passed) since the share is in force.
    pub packets: u64,
}

impl Program {
    /// The share that is in force.
    pub fn share(&self) -> Option<Share> {
        self.plan.share
    }

    /// From now on each pod has this share of the queue, or, with `None`, as much as there is. Returns what the pods had
    /// over the share that was in force before.
    ///
    /// Errors: [`Error::NotOwner`] as with [`apply`](Self::apply); [`Error::Refused`] by kernels that cannot limit an
    /// element's rate (before 5.11). No share is in force then.
    pub fn set_share(&mut self, share: Option<Share>) -> Result<Vec<Excess>, Error> {
        let mut excess = Vec::new();
        if self.plan.share.is_some() {
            self.switch_share(None, false)?;
            excess = self.excess()?;
            excess.retain(|one| one.packets > 0);
        } else if share.is_none() {
            return Ok(excess);
        }
        self.switch_share(share, true)?;
        Ok(excess)
    }

    /// What each pod had over its share so far: each that sent, or got, packets since the share is in force.
    pub fn excess(&mut self) -> Result<Vec<Excess>, Error> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            read(&mut self.channel, family, &mut all)?;
        }
        Ok(all)
    }

    fn switch_share(&mut self, share: Option<Share>, empty: bool) -> Result<(), Error> {
        let mut transaction = ownership::fence(&self.owner);
        if empty {
            forget(&mut transaction);
        }
        let mut plan = self.plan.clone();
        plan.share = share;
        if plan != self.plan {
            layout::flush_rules(&mut transaction, Some("to_queue"));
            rules::to_queue(&plan).into_iter().for_each(|rule| layout::add_rule(&mut transaction, rule));
        }
        self.commit(transaction, None, self.plan.recheck)?;
        self.plan.share = share;
        if let Some(standing) = Standing::read(&mut self.channel)? {
            self.made = standing;
        }
        Ok(())
    }
}

fn set(family: Family) -> String {
    format!("share{}", family.digit())
}

/// Adds the sets, with ids from `id` on; those that are there stay.
pub(crate) fn add_sets(transaction: &mut Transaction, id: u32) {
    for (family, id) in Family::BOTH.into_iter().zip(id..) {
        let name = set(family);
        let attributes = vec![
            SetAttribute::Table(TABLE.into()),
            SetAttribute::Name(name.clone()),
            SetAttribute::Flags(SetFlags::Eval | SetFlags::Timeout),
            SetAttribute::KeyType(family.data_type()),
            SetAttribute::KeyLen(family.length()),
            SetAttribute::Description(vec![SetDescription::Size(ROOM)]),
            SetAttribute::Timeout(TIMEOUT),
            SetAttribute::Id(id),
        ];
        transaction.push(format!("add set {name}"), NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }
}

/// Empties the sets.
pub(crate) fn forget(transaction: &mut Transaction) {
    Family::BOTH.iter().for_each(|family| flush(transaction, &set(*family)));
}

/// The rules of a share; they stand before the one that queues.
pub(crate) fn shares(share: &Share, bypass: bool) -> Vec<Rule> {
    let act = || if bypass { accept() } else { drop() };
    let limit = || limit_over(share.rate, share.burst);
    let mut rules = Vec::new();
    let mut add = |parts: Vec<Statement>| {
        let expressions: Vec<Expression> = parts.into_iter().flatten().collect();
        rules.push(Rule { chain: "to_queue".into(), expressions, comment: None });
    };
    for family in Family::BOTH {
        let (ranges, shares) = (format!("ranges{}", family.digit()), set(family));
        for end in [End::Source, End::Destination] {
            let local = || match end {
                End::Source => address_in(family, end, &ranges),
                // The address that was looked up last is the one that is in the register.
                End::Destination => {
                    [address_not_in(family, End::Source, &ranges), address_in(family, end, &ranges)].concat()
                }
            };
            // Order: an element counts what is over its limit, as the limit ends the rule for what is not.
            add(vec![local(), update(&shares, [limit(), counter()].concat()), act()]);
            // The set is full, or this address would have an element by now.
            add(vec![local(), address_not_in(family, end, &shares), limit(), counter(), act()]);
        }
    }
    rules
}

/// Adds what the elements of one family's set count.
fn read(channel: &mut Channel, family: Family, all: &mut Vec<Excess>) -> Result<(), Error> {
    let before = all.len();
    let get = inet(NfTablesMessage::GetSetElement(message(&set(family), vec![])));
    channel.request("read the pods' shares", get, NLM_F_DUMP, &mut |message| match message {
        None => all.truncate(before),
        Some(message) => {
            let elements = attribute(body(&message), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
            all.extend(attributes(elements).filter_map(|(_, element)| parse(element)));
        }
    })
}

fn parse(element: &[u8]) -> Option<Excess> {
    let pod = address(attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?)?;
    let expressions = attributes(attribute(element, NFTA_SET_ELEM_EXPRESSIONS)?);
    let counter = expressions
        .map(|(_, expression)| expression)
        .find(|expression| attribute(expression, NFTA_EXPR_NAME).map(text) == Some("counter"))?;
    Some(Excess { pod, packets: packets(counter)? })
}
