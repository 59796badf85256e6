//! Spreading over the queues by flow, so that all that two pods have to say to each other is not one worker's.
//!
//! ```text
//!   to_queue     symhash mod N vmap @spread        0 : goto to_queue0, 1 : goto to_queue1, …
//!   to_queue0    queue num first
//!   to_queue1    queue num first + 1
//! ```
//!
//! The kernel's own spreading (`queue num first-last`) hashes the addresses alone. This one hashes the ports with them,
//! the same for both directions, so a flow is never over two queues. (Packets without ports, and fragments that
//! conntrack did not put together, are spread by their addresses.)
//!
//! A map, as each rule that asks for the hash computes it; and a chain for each queue, as the compat expression's queue
//! cannot come from a register. Without `nft_hash`, or with one queue, neither is used.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ListAttribute, NfTablesMessage, SetAttribute, SetDescription,
    SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage, Verdict, VerdictAttribute,
};

use super::TABLE;
use super::expression::{by_flow, queue, queue_compat};
use super::rules::{Plan, Rule};
use super::transaction::Transaction;

const MAP: &str = "spread";
/// Queues that there is room for.
const MOST: u32 = 256;
/// nft's data type `mark`: 32 bits in host order, as the hash is.
const TYPE_MARK: u32 = 19;
/// For nft's eyes alone: `NFTNL_UDATA_SET_KEYBYTEORDER` (type, length, value), host order.
const HOST_ORDER: [u8; 6] = if cfg!(target_endian = "little") { [0, 4, 1, 0, 0, 0] } else { [0, 4, 0, 0, 0, 1] };
/// `NFT_DATA_VERDICT`
const VERDICTS: u32 = 0xffff_ff00;

fn chain(index: u32) -> String {
    format!("to_queue{index}")
}

/// How many queues it is spread over by flow; `None`: by address, or there is only one.
fn queues(plan: &Plan) -> Option<u32> {
    let count = plan.queues.len() as u32;
    (plan.flow_hash && (2..=MOST).contains(&count)).then_some(count)
}

/// Adds the map; one that is there stays.
pub(crate) fn add_map(transaction: &mut Transaction, id: u32) {
    let attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(MAP.into()),
        SetAttribute::Flags(SetFlags::Map),
        SetAttribute::KeyType(TYPE_MARK),
        SetAttribute::KeyLen(4),
        SetAttribute::DataType(VERDICTS),
        SetAttribute::Description(vec![SetDescription::Size(MOST)]),
        SetAttribute::Id(id),
        SetAttribute::UserData(HOST_ORDER.to_vec()),
    ];
    transaction.push(format!("add map {MAP}"), NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
}

/// Makes the chains and what is in the map those of `plan`, to be followed by its rules.
pub(crate) fn fill(transaction: &mut Transaction, plan: &Plan) {
    let message = |elements: Vec<ListAttribute<SetElementAttribute>>| {
        let mut attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(MAP.into())];
        if !elements.is_empty() {
            attributes.push(SetElementList::Elements(elements));
        }
        SetElementMessage { attributes }
    };
    transaction.push(format!("empty map {MAP}"), NfTablesMessage::DeleteSetElement(message(vec![])), 0);
    let Some(queues) = queues(plan) else { return };
    let mut elements = Vec::new();
    for index in 0..queues {
        let name = chain(index);
        let attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.clone())];
        let add = NfTablesMessage::NewChain(ChainMessage { attributes });
        transaction.push(format!("add chain {name}"), add, NLM_F_CREATE);
        let verdict = vec![VerdictAttribute::Code(Verdict::Goto), VerdictAttribute::Chain(name)];
        elements.push(ListAttribute::Element(vec![
            SetElementAttribute::Key(DataAttribute::Value(index.to_ne_bytes().to_vec())),
            SetElementAttribute::Data(DataAttribute::Verdict(verdict)),
        ]));
    }
    let add = NfTablesMessage::NewSetElement(message(elements));
    transaction.push(format!("add elements to map {MAP}"), add, NLM_F_CREATE);
}

/// The last rule of `to_queue`.
pub(crate) fn spread(plan: &Plan) -> Rule {
    let statement = if plan.native_queue { queue } else { queue_compat };
    let expressions = match queues(plan) {
        Some(queues) => by_flow(queues, MAP),
        None => statement(&plan.queues, plan.bypass),
    };
    Rule { chain: "to_queue".into(), expressions, comment: None }
}

/// The rules of the chains of single queues.
pub(crate) fn single(plan: &Plan) -> Vec<Rule> {
    let statement = if plan.native_queue { queue } else { queue_compat };
    let numbered = (0..queues(plan).unwrap_or(0)).zip(plan.queues.clone());
    let rule = |(index, number)| {
        let expressions = statement(&(number..=number), plan.bypass);
        Rule { chain: chain(index).into(), expressions, comment: None }
    };
    numbered.map(rule).collect()
}
