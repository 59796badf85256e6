//! Whose the table is: one element in the set `owner`, whose key is the ownership generation.
//!
//! Every change of an owner takes that element out and puts it back first ([`fence`]): if it is not there any more, the
//! kernel refuses the whole change. So an agent that was superseded cannot write, even before it knows. A claim goes by
//! the rule set's generation (`NFNL_BATCH_GENID`): of two at once one wins, the other reads again.
//!
//! The element's comment tells more of the owner, in words that nft prints. Whether that agent lives is `life`'s.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage, SetFlags,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::time::{ClockId, clock_gettime};

use super::TABLE;
use super::layout::{self, user_comment};
use super::sets::{NFTA_DATA_VALUE, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS};
use super::transaction::{Transaction, body, inet};
use crate::Error;
use crate::netlink::{Channel, attribute, attributes, be32, text};

const SET: &str = "owner";
/// nft's data type `mark`: 32 bits, printed as a number.
const TYPE_MARK: u32 = 19;
const NFTA_SET_ELEM_USERDATA: u16 = 6;

/// What the table says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Grows with each change of hands.
    pub generation: u32,
    /// The name under which its life can be watched ([`crate::Vigil`]); empty if it cannot.
    pub agent: String,
    /// How often the table has come back to an earlier agent because a newer one died, of late.
    pub returns: u8,
    /// When it became the owner, in seconds since the machine's start (suspension included).
    pub since: u64,
}

/// What an agent expects of the table when it claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: whoever it was, it is this agent's now.
    Anything,
    /// Its owner is still of this generation, or there still is none.
    Unchanged(Option<u32>),
    /// It is this agent's already, under this generation, or nobody's newer: for putting things back.
    Mine(u32),
}

/// A claim to the table.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The claimant's name; see [`Owner::agent`].
    pub agent: &'a str,
    /// If it is otherwise the claim fails with [`Error::NotOwner`] and nothing is changed.
    pub expect: Expect,
    /// The new generation is higher than this one.
    pub above: u32,
    /// See [`Owner::returns`].
    pub returns: u8,
}

impl Claim<'_> {
    /// The record of a claim that finds `standing`; `None` if that is not what it expects.
    pub(crate) fn record(&self, standing: Option<&Owner>) -> Option<Owner> {
        let generation = standing.map(|owner| owner.generation);
        let next = generation.unwrap_or(0).max(self.above).saturating_add(1);
        let generation = match self.expect {
            Expect::Anything => next,
            Expect::Unchanged(expected) if expected == generation => next,
            Expect::Mine(mine) if generation.is_none_or(|standing| standing <= mine) => mine,
            Expect::Unchanged(_) | Expect::Mine(_) => return None,
        };
        Some(Owner { generation, agent: self.agent.to_owned(), returns: self.returns, since: uptime() })
    }
}

/// Seconds since the machine's start.
pub fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec().unsigned_abs())
}

/// Reads whose the table is, in the calling thread's network namespace; `None` where there is no table or no owner.
pub fn owner() -> Result<Option<Owner>, Error> {
    read(&mut Channel::open(NETLINK_NETFILTER)?)
}

pub(crate) fn read(channel: &mut Channel) -> Result<Option<Owner>, Error> {
    let get = inet(NfTablesMessage::GetSetElement(message(vec![])));
    let mut found: Option<Owner> = None;
    let result = channel.request("read the table's owner", get, NLM_F_DUMP, &mut |message| match message {
        None => found = None,
        Some(message) => {
            let Some(elements) = attribute(body(&message), NFTA_SET_ELEM_LIST_ELEMENTS) else { return };
            let newer = attributes(elements).filter_map(|(_, element)| parse(element));
            found = newer.chain(found.take()).max_by_key(|owner| owner.generation);
        }
    });
    match result {
        // Neither table nor set.
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Adds the set; one that is there stays.
pub(crate) fn add_set(transaction: &mut Transaction, id: u32) {
    layout::add_set_of(transaction, id, SET, (TYPE_MARK, 4), SetFlags::empty(), None);
}

/// Makes `owner` the only one.
pub(crate) fn set(transaction: &mut Transaction, owner: &Owner) {
    transaction.push(format!("empty set {SET}"), NfTablesMessage::DeleteSetElement(message(vec![])), 0);
    let element = message(vec![element(owner)]);
    transaction.push("say whose the table is", NfTablesMessage::NewSetElement(element), NLM_F_CREATE);
}

/// A change that the kernel makes only if the table is still `owner`'s.
pub(crate) fn fence(owner: &Owner) -> Transaction {
    let delete = NfTablesMessage::DeleteSetElement(message(vec![element(owner)]));
    let add = NfTablesMessage::NewSetElement(message(vec![element(owner)]));
    Transaction::fenced([("find this agent's claim", delete, 0), ("keep this agent's claim", add, NLM_F_CREATE)])
}

fn message(elements: Vec<ListAttribute<SetElementAttribute>>) -> SetElementMessage {
    let mut attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(SET.into())];
    if !elements.is_empty() {
        attributes.push(SetElementList::Elements(elements));
    }
    SetElementMessage { attributes }
}

pub(crate) fn element(owner: &Owner) -> ListAttribute<SetElementAttribute> {
    let Owner { generation, agent, returns, since } = owner;
    let agent = if agent.is_empty() { "-" } else { agent };
    ListAttribute::Element(vec![
        SetElementAttribute::Key(DataAttribute::Value(generation.to_be_bytes().to_vec())),
        SetElementAttribute::UserData(user_comment(&format!("agent {agent} since {since} returns {returns}"))),
    ])
}

/// Reads one element as the kernel lists it. One that others put there has no words, but counts all the same.
pub(crate) fn parse(element: &[u8]) -> Option<Owner> {
    let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
    let mut owner = Owner { generation: be32(key)?, agent: String::new(), returns: 0, since: 0 };
    let comment = attribute(element, NFTA_SET_ELEM_USERDATA).and_then(|data| data.get(2..)).map(text).unwrap_or("");
    let words: Vec<&str> = comment.split(' ').collect();
    if let ["agent", agent, "since", since, "returns", returns] = words[..] {
        owner.agent = agent.trim_start_matches('-').to_owned();
        owner.since = since.parse().unwrap_or(0);
        owner.returns = returns.parse().unwrap_or(0);
    }
    Some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(generation: u32) -> Owner {
        Owner { generation, agent: "podgate/agent/1".into(), returns: 2, since: 99 }
    }

    fn claimed(expect: Expect, found: Option<u32>) -> Option<u32> {
        let claim = Claim { agent: "podgate/agent/2", expect, above: 3, returns: 0 };
        claim.record(found.map(standing).as_ref()).map(|owner| owner.generation)
    }

    #[test]
    fn a_claim_is_newer_than_all_it_knows_of() {
        assert_eq!(claimed(Expect::Anything, None), Some(4));
        assert_eq!(claimed(Expect::Anything, Some(7)), Some(8));
        assert_eq!(claimed(Expect::Unchanged(None), None), Some(4));
        assert_eq!(claimed(Expect::Unchanged(Some(7)), Some(7)), Some(8));
    }

    #[test]
    fn a_claim_fails_where_another_was_faster() {
        assert_eq!(claimed(Expect::Unchanged(None), Some(1)), None);
        assert_eq!(claimed(Expect::Unchanged(Some(7)), Some(8)), None);
        assert_eq!(claimed(Expect::Unchanged(Some(7)), None), None);
        assert_eq!(claimed(Expect::Mine(7), Some(8)), None);
    }

    #[test]
    fn putting_things_back_keeps_the_generation() {
        for found in [None, Some(6), Some(7)] {
            assert_eq!(claimed(Expect::Mine(7), found), Some(7), "{found:?}");
        }
    }
}
