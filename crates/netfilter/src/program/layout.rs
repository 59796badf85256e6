//! The table, its chains and sets: what is made once. Rules are `rules`', contents of sets are `sets`'.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetDescription, SetFlags, SetMessage, TableAttribute, TableFlags, TableMessage,
};

use super::TABLE;
use super::cache;
use super::expression::{Family, jump};
use super::links;
use super::ownership;
use super::peers;
use super::rules::{REGULAR, Rule};
use super::share;
use super::spread;
use super::transaction::Transaction;

/// A chain that the kernel calls. Created once, never deleted but by `cleanup`: deleting any hooked chain drops every
/// packet that waits in any NFQUEUE of the network namespace (`nf_queue_nf_hook_drop`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub name: &'static str,
    pub hook: InetHookNumber,
    pub priority: i32,
    /// The regular chain that holds its rules.
    pub target: &'static str,
}

/// Always there.
pub(crate) const CORE: [Base; 3] = [
    Base { name: "output", hook: InetHookNumber::LocalOut, priority: 0, target: "mark_node" },
    // Source NAT is at 100: the real ends are seen. A packet accepted from the queue goes on at the next base chain.
    Base { name: "postrouting", hook: InetHookNumber::PostRouting, priority: 98, target: "judge" },
    Base { name: "settle", hook: InetHookNumber::PostRouting, priority: 99, target: "remember" },
];

/// Where sources are checked.
pub(crate) const FORWARD: [Base; 1] =
    [Base { name: "forward", hook: InetHookNumber::Forward, priority: 0, target: links::CHAIN }];

/// Where UDP is judged before routing; destination NAT is at -100.
pub(crate) const UDP: [Base; 2] = [
    Base { name: "prerouting_udp", hook: InetHookNumber::PreRouting, priority: -99, target: "judge_udp" },
    Base { name: "settle_udp", hook: InetHookNumber::PreRouting, priority: -98, target: "remember" },
];

/// From the first time on that pods' packets to the node are judged.
pub(crate) const INPUT: [Base; 2] = [
    Base { name: "input", hook: InetHookNumber::LocalIn, priority: 0, target: "judge_input" },
    Base { name: "settle_input", hook: InetHookNumber::LocalIn, priority: 1, target: "clear" },
];

const NF_ACCEPT: u32 = 1;

/// Adds the table, its regular chains and its sets; what is there already stays as it is, but awake.
pub(crate) fn add_table(transaction: &mut Transaction) {
    // Without flags one that somebody made `dormant` would stay so.
    let attributes = vec![TableAttribute::Name(TABLE.into()), TableAttribute::Flags(TableFlags::empty())];
    transaction.push(
        format!("add table inet {TABLE}"),
        NfTablesMessage::NewTable(TableMessage { attributes }),
        NLM_F_CREATE,
    );
    for chain in REGULAR {
        let attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(chain.into())];
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        transaction.push(format!("add chain {chain}"), message, NLM_F_CREATE);
    }
    let mut id = 0;
    for family in Family::BOTH {
        let none = SetFlags::empty();
        for (name, flags) in
            [("ranges", SetFlags::Interval), ("open_ingress", none), ("open_egress", none), ("recheck", none)]
        {
            id += 1;
            add_set(transaction, id, &format!("{name}{}", family.digit()), family, flags, None);
        }
    }
    ownership::add_set(transaction, id + 1);
    cache::add_sets(transaction, id + 2);
    share::add_sets(transaction, id + 8);
    spread::add_map(transaction, id + 10);
    peers::add_sets(transaction, id + 11);
    links::add_set(transaction, id + 13);
}

/// Adds a set of addresses; one that is there stays. With room for so many and no more the kernel looks up quicker.
pub(crate) fn add_set(
    transaction: &mut Transaction,
    id: u32,
    name: &str,
    family: Family,
    flags: SetFlags,
    room: Option<u32>,
) {
    add_set_of(transaction, id, name, (family.data_type(), family.length()), flags, room);
}

/// Likewise, of keys of nft's data type of this number and these many bytes.
pub(crate) fn add_set_of(
    transaction: &mut Transaction,
    id: u32,
    name: &str,
    (data_type, length): (u32, u32),
    flags: SetFlags,
    room: Option<u32>,
) {
    let mut attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(name.into()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(data_type),
        SetAttribute::KeyLen(length),
        SetAttribute::Id(id),
    ];
    attributes.extend(room.map(|room| SetAttribute::Description(vec![SetDescription::Size(room)])));
    transaction.push(format!("add set {name}"), NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
}

/// Adds a base chain that accepts by policy; one of the same place that is there stays, with its handle.
pub(crate) fn add_base(transaction: &mut Transaction, base: &Base) {
    let hook = vec![Hook::Number(HookNumber::Inet(base.hook)), Hook::Priority(base.priority as u32)];
    let attributes = vec![
        ChainAttribute::Table(TABLE.into()),
        ChainAttribute::Name(base.name.into()),
        ChainAttribute::Hook(hook),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type("filter".into()),
    ];
    let message = NfTablesMessage::NewChain(ChainMessage { attributes });
    transaction.push(format!("add base chain {}", base.name), message, NLM_F_CREATE);
}

/// The only rule of a base chain.
pub(crate) fn base_rule(base: &Base) -> Rule {
    Rule { chain: base.name.into(), expressions: jump(base.target), comment: None }
}

/// Appends a rule to its chain.
pub(crate) fn add_rule(transaction: &mut Transaction, rule: Rule) {
    let mut attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Chain(rule.chain.to_string()),
        RuleAttribute::Expressions(rule.expressions),
    ];
    if let Some(comment) = rule.comment {
        attributes.push(RuleAttribute::UserData(user_comment(&comment)));
    }
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    transaction.push(format!("add a rule to chain {}", rule.chain), message, NLM_F_CREATE | NLM_F_APPEND);
}

/// Takes all rules out of `chain`, or out of every chain of the table.
pub(crate) fn flush_rules(transaction: &mut Transaction, chain: Option<&str>) {
    let mut attributes = vec![RuleAttribute::Table(TABLE.into())];
    attributes.extend(chain.map(|c| RuleAttribute::Chain(c.into())));
    let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
    transaction.push("take the old rules out", message, 0);
}

/// Deletes the table with everything in it.
pub(crate) fn delete_table(transaction: &mut Transaction) {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
    transaction.push(format!("delete table inet {TABLE}"), message, 0);
}

/// A rule's comment as nft keeps it (libnftnl's user data: type 0, length, text with its NUL).
pub(crate) fn user_comment(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}
