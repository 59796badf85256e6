//! What stands in the kernel: our table as a listing tells it, to take it over, to know it again, to take it away.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetMessage, TableAttribute, TableMessage,
};

use super::TABLE;
use super::rules::parse_comment;
use super::transaction::{body, inet};
use crate::Error;
use crate::marks::Marks;
use crate::netlink::{Channel, attribute, be32, be64, text};

// All of NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and NFTA_SET_TABLE: whose table a message is about.
pub(crate) const NFTA_TABLE: u16 = 1;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_CHAIN_HANDLE: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_HANDLE: u16 = 16;

/// The table's handles: equal as long as nobody else made or deleted anything in it. What is in the sets is not part of it,
/// nor what a rule says: one that is replaced keeps its handle (kernel 6.18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    table: u64,
    chains: Vec<Chain>,
    rules: Vec<(String, u64)>,
    sets: Vec<(String, u64)>,
    /// How many rules there are in the chain `accepted`.
    pub accepted: usize,
    /// The bits that its rules use, if they say so.
    pub marks: Option<Marks>,
}

/// The chain whose rules come and go, of which only the number is told.
const CHANGEABLE: &str = "accepted";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    name: String,
    handle: u64,
    /// What a base chain does at its end; `None` for a regular chain.
    policy: Option<u32>,
}

impl Standing {
    /// Reads the table; `None` if there is none.
    pub(crate) fn read(channel: &mut Channel) -> Result<Option<Self>, Error> {
        let Some(table) = table_handle(channel)? else { return Ok(None) };
        let mut standing = Self { table, chains: vec![], rules: vec![], sets: vec![], accepted: 0, marks: None };
        let get = inet(NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }));
        list(channel, "list our chains", get, &mut |item| match item {
            None => standing.chains.clear(),
            Some(item) => standing.chains.extend((|| {
                let policy = attribute(item, NFTA_CHAIN_POLICY).and_then(be32);
                Some(Chain { name: name(item, NFTA_CHAIN_NAME)?, handle: handle(item, NFTA_CHAIN_HANDLE)?, policy })
            })()),
        })?;
        let filter = vec![RuleAttribute::Table(TABLE.into())];
        let get = inet(NfTablesMessage::GetRule(RuleMessage { attributes: filter }));
        list(channel, "list our rules", get, &mut |item| match item {
            None => {
                standing.rules.clear();
                standing.accepted = 0;
            }
            Some(item) => {
                let comment = attribute(item, NFTA_RULE_USERDATA).and_then(|data| data.get(2..)).map(text);
                standing.marks = standing.marks.or(comment.and_then(parse_comment));
                let rule = (|| Some((name(item, NFTA_RULE_CHAIN)?, handle(item, NFTA_RULE_HANDLE)?)))();
                match rule {
                    Some((chain, _)) if chain == CHANGEABLE => standing.accepted += 1,
                    rule => standing.rules.extend(rule),
                }
            }
        })?;
        let filter = vec![SetAttribute::Table(TABLE.into())];
        let get = inet(NfTablesMessage::GetSet(SetMessage { attributes: filter }));
        list(channel, "list our sets", get, &mut |item| match item {
            None => standing.sets.clear(),
            Some(item) => {
                standing.sets.extend((|| Some((name(item, NFTA_SET_NAME)?, handle(item, NFTA_SET_HANDLE)?)))());
            }
        })?;
        Ok(Some(standing))
    }

    /// Is there a chain of this name?
    pub(crate) fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|c| c.name == name)
    }

    /// How many rules `chain` has.
    pub(crate) fn rules_in(&self, chain: &str) -> usize {
        self.rules.iter().filter(|(c, _)| c == chain).count()
    }
}

fn table_handle(channel: &mut Channel) -> Result<Option<u64>, Error> {
    let doing = "look for our table";
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    let get = inet(NfTablesMessage::GetTable(TableMessage { attributes }));
    let mut found = None;
    match channel.request(doing, get, NLM_F_ACK, &mut |message| {
        found = message.and_then(|m| attribute(body(&m), NFTA_TABLE_HANDLE).and_then(be64));
    }) {
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Hands the attributes of each listed thing of our table to `each`; `None` says to begin again.
fn list(
    channel: &mut Channel,
    doing: &str,
    get: netlink_packet_netfilter::NetfilterMessage,
    each: &mut dyn FnMut(Option<&[u8]>),
) -> Result<(), Error> {
    let result = channel.request(doing, get, NLM_F_DUMP, &mut |message| match message {
        None => each(None),
        Some(message) => {
            let item = body(&message);
            if attribute(item, NFTA_TABLE).map(text) == Some(TABLE) {
                each(Some(item));
            }
        }
    });
    match result {
        // The table went away meanwhile: an empty list.
        Err(error) if error.refused_with() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn name(item: &[u8], kind: u16) -> Option<String> {
    attribute(item, kind).map(|value| text(value).to_owned())
}

fn handle(item: &[u8], kind: u16) -> Option<u64> {
    attribute(item, kind).and_then(be64)
}
