//! What this kernel can do. Asked by rehearsing transactions (checked by the kernel, never made) and harmless requests:
//! nothing of anyone's is touched.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetFlags, SetMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_packet_netfilter::{NetfilterSubsystem, conntrack::ConntrackMessage};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::marks::Marks;
use crate::netlink::{Answer, Channel};
use crate::program::expression::{self as e, Direction, End, Statement};
use crate::program::transaction::Transaction;
use crate::{Error, Missing};

const NFNL_SUBSYS_QUEUE: u8 = 3;
const NFQNL_MSG_CONFIG: u8 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQNL_CFG_CMD_PF_BIND: u8 = 3;
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;

/// What the program may count on. Whatever it can't do without is there, or [`probe`] fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Kernel release, major and minor.
    pub release: (u32, u32),
    /// The expression `queue` is there; otherwise the compat expression `target` with NFQUEUE is used.
    pub native_queue: bool,
    /// The expression `hash` is there; otherwise packets are spread over queues by their addresses alone.
    pub flow_hash: bool,
}

/// Finds out what this kernel can do.
///
/// Errors: no permission, or the list of what is missing, one line each with what to do.
pub fn probe() -> Result<Features, Error> {
    probe_with(&mut Channel::open(NETLINK_NETFILTER)?)
}

pub(crate) fn probe_with(channel: &mut Channel) -> Result<Features, Error> {
    let (said, parts) = rehearse(channel)?;
    let mut missing = Vec::new();
    for (part, said) in parts.iter().zip(&said) {
        if let (Some(remedy), Some(answer)) = (part.remedy, said) {
            missing.push(Missing { what: part.what, remedy, said: reason(answer) });
        }
    }
    let place = |what| parts.iter().position(|p| p.what == what);
    let answer = |what| place(what).and_then(|index| said[index].as_ref());
    let native_queue = answer(NATIVE).is_none();
    let flow_hash = answer(HASH).is_none();
    if let (false, Some(answer)) = (native_queue, answer(COMPAT)) {
        missing.push(Missing {
            what: "nft_queue (and the compat target NFQUEUE)",
            remedy: "load the module nft_queue, or nft_compat with xt_NFQUEUE, or use a kernel built with one of them",
            said: reason(answer),
        });
    }
    for (what, remedy, request) in [
        (
            "nfnetlink_queue",
            "load the module nfnetlink_queue or use a kernel built with CONFIG_NETFILTER_NETLINK_QUEUE",
            queue_request(),
        ),
        (
            "nf_conntrack_netlink",
            "load the module nf_conntrack_netlink or use a kernel built with CONFIG_NF_CT_NETLINK",
            conntrack_request(),
        ),
    ] {
        match channel.request(what, request, 0, &mut |_| {}) {
            Err(Error::Refused { source, .. }) => {
                missing.push(Missing { what, remedy, said: source.to_string() });
            }
            other => other?,
        }
    }
    if missing.is_empty() {
        Ok(Features { release: release(), native_queue, flow_hash })
    } else {
        Err(Error::Missing(missing))
    }
}

const NATIVE: &str = "queue";
const COMPAT: &str = "target NFQUEUE";
const HASH: &str = "hash";
const SCRATCH: &str = "podgate-probe";

/// One rehearsed message: what it stands for, and what to do if the kernel refuses it (`None`: decided elsewhere).
struct Part {
    what: &'static str,
    remedy: Option<&'static str>,
}

fn rehearse(channel: &mut Channel) -> Result<(Vec<Option<Answer>>, Vec<Part>), Error> {
    let mut transaction = Transaction::default();
    let mut parts = Vec::new();
    let table = vec![TableAttribute::Name(SCRATCH.into())];
    let chain = vec![ChainAttribute::Table(SCRATCH.into()), ChainAttribute::Name(SCRATCH.into())];
    let set = vec![
        SetAttribute::Table(SCRATCH.into()),
        SetAttribute::Name(SCRATCH.into()),
        SetAttribute::Flags(SetFlags::Interval),
        SetAttribute::KeyLen(4),
        SetAttribute::Id(1),
    ];
    const TABLES: &str =
        "load the module nf_tables or use a kernel built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET";
    let mut push = |what, remedy, message, flags| {
        transaction.push(what, message, flags);
        parts.push(Part { what, remedy });
    };
    push("nf_tables", Some(TABLES), NfTablesMessage::NewTable(TableMessage { attributes: table }), NLM_F_CREATE);
    push("nf_tables chains", Some(TABLES), NfTablesMessage::NewChain(ChainMessage { attributes: chain }), NLM_F_CREATE);
    let message = NfTablesMessage::NewSet(SetMessage { attributes: set });
    push("nf_tables interval sets", Some(TABLES), message, NLM_F_CREATE);
    for (what, remedy, statement) in statements() {
        let attributes = vec![
            RuleAttribute::Table(SCRATCH.into()),
            RuleAttribute::Chain(SCRATCH.into()),
            RuleAttribute::Expressions(statement),
        ];
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        push(what, remedy, message, NLM_F_CREATE | NLM_F_APPEND);
    }
    let said = transaction.rehearse(channel)?;
    // With the table refused everything is: one line is enough.
    if let Some(answer) = &said[0] {
        if answer.code == libc::EPERM {
            return Err(answer.refusal("use nf_tables"));
        }
        let missing = Missing { what: "nf_tables", remedy: TABLES, said: reason(answer) };
        return Err(Error::Missing(vec![missing]));
    }
    Ok((said, parts))
}

fn statements() -> Vec<(&'static str, Option<&'static str>, Statement)> {
    let bits = Marks::default().label_bits(crate::marks::Orientation::AsMet);
    let discovery = e::neighbour_discovery(133..=137);
    vec![
        (NATIVE, None, e::queue(&(0..=1), false)),
        (COMPAT, None, e::queue_compat(&(0..=1), false)),
        (HASH, None, e::flow_hash()),
        (
            "nft_fib",
            Some("load the module nft_fib_inet or use a kernel built with CONFIG_NFT_FIB_INET"),
            e::local(End::Source),
        ),
        (
            "nft_ct",
            Some("load the module nft_ct or use a kernel built with CONFIG_NFT_CT"),
            [e::direction(Direction::Original), e::state(e::RELATED, true), e::connection_mark(1)].concat(),
        ),
        (
            "setting connection marks",
            Some("use a kernel built with CONFIG_NF_CONNTRACK_MARK"),
            e::set_connection_mark(1),
        ),
        ("connection labels", Some("use a kernel built with CONFIG_NF_CONNTRACK_LABELS"), e::set_label(bits)),
        (
            "matches on marks and headers",
            Some("use a kernel built with the whole of CONFIG_NF_TABLES"),
            [discovery, e::mark_any(1), e::set_mark(1, 0), e::counter()].concat(),
        ),
    ]
}

fn reason(answer: &Answer) -> String {
    std::io::Error::from_raw_os_error(answer.code).to_string()
}

/// A command of old that the kernel now answers with "done": it tells whether anyone is there to answer.
fn queue_request() -> NetfilterMessage {
    // struct nfqnl_msg_config_cmd: command, padding, protocol family in network order.
    let command = vec![NFQNL_CFG_CMD_PF_BIND, 0, 0, libc::AF_INET as u8];
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        NetfilterMessageInner::Other {
            subsys: NetfilterSubsystem::Other(NFNL_SUBSYS_QUEUE),
            message_type: NFQNL_MSG_CONFIG,
            attributes: vec![DefaultNla::new(NFQA_CFG_CMD, command)],
        },
    )
}

fn conntrack_request() -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        ConntrackMessage::Other { message_type: IPCTNL_MSG_CT_GET_STATS, attributes: vec![] },
    )
}

/// Major and minor number of the running kernel; (0, 0) if its name can't be read, which is taken for an old one.
fn release() -> (u32, u32) {
    let name = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    parse_release(&name)
}

fn parse_release(name: &str) -> (u32, u32) {
    let mut numbers = name.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v509"), (6, 18));
        assert_eq!(parse_release("6.1.0-28-amd64"), (6, 1));
        assert!(parse_release("6.9-rc1") < (6, 12));
        assert_eq!(parse_release(""), (0, 0));
    }

    #[test]
    fn what_is_missing_is_one_line_each_with_a_remedy() {
        let missing = |what| Missing { what, remedy: "load it", said: "No such file or directory".into() };
        let text = Error::Missing(vec![missing("nft_fib"), missing("nft_ct")]).to_string();
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("nft_fib is missing in this kernel (No such file or directory"), "{text}");
        assert!(text.ends_with(": load it"), "{text}");
    }
}
