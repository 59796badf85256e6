//! nftables expressions: small builders that read like the words of `nft`, each giving the expressions of one match or
//! statement. Which of them stand in which chain is `rules`'.
//!
//! Attribute numbers are those of include/uapi/linux/netfilter/nf_tables.h; numbers in registers are in host order
//! unless they come from the packet.

use std::ops::RangeInclusive;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, MetaKey,
    Operator, Payload, Register, Verdict, VerdictAttribute,
};

/// One expression of a rule.
pub(crate) type Expression = ListAttribute<ExpressionAttribute>;
/// A rule's expressions, or a part of them.
pub(crate) type Statement = Vec<Expression>;

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A packet's direction in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Original,
    Reply,
}

/// `NF_CT_STATE_BIT` of each state that the program asks for.
pub(crate) const INVALID: u32 = 1;
pub(crate) const RELATED: u32 = 1 << 2;
pub(crate) const ESTABLISHED: u32 = 1 << 1;
pub(crate) const NEW: u32 = 1 << 3;
pub(crate) const UNTRACKED: u32 = 1 << 6;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const CT_LABELS: u32 = 13;
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const FIB_IIF: u32 = 8;
const RTN_LOCAL: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// `4` or `6`, as set names end.
    pub(crate) fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// nft's number of the data type (include/datatype.h), by which it prints keys.
    pub(crate) fn data_type(self) -> u32 {
        match self {
            Family::V4 => 7,
            Family::V6 => 8,
        }
    }

    /// Bytes of an address.
    pub(crate) fn length(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other { expression_type: name.into(), attributes }.into()
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn short(kind: u16, value: u16) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn data(bytes: impl Into<Vec<u8>>) -> DataAttribute {
    DataAttribute::Value(bytes.into())
}

fn load(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

fn compare(op: Operator, bytes: impl Into<Vec<u8>>) -> Expression {
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(op), Cmp::Data(data(bytes))]).into()
}

/// Register 1 becomes `(register 1 & mask) ^ xor`.
fn bitwise(mask: &[u8], xor: &[u8]) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(data(mask)),
        Bitwise::Xor(data(xor)),
    ])
    .into()
}

fn masked(mask: u32) -> Expression {
    bitwise(&mask.to_ne_bytes(), &[0; 4])
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    payload_to(Register::Reg1, base, offset, length)
}

fn payload_to(register: Register, base: u32, offset: u32, length: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

fn connection(key: u32) -> Expression {
    other("ct", vec![number(2, key), number(1, u32::from(Register::Reg1))])
}

fn set_connection(key: u32) -> Expression {
    other("ct", vec![number(2, key), number(4, u32::from(Register::Reg1))])
}

fn verdict(code: Verdict, chain: Option<&str>) -> Statement {
    let mut attributes = vec![VerdictAttribute::Code(code)];
    attributes.extend(chain.map(|c| VerdictAttribute::Chain(c.into())));
    let verdict = Immediate::Data(DataAttribute::Verdict(attributes));
    vec![Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), verdict]).into()]
}

/// `accept`: ends this base chain; the next one goes on with the packet.
pub(crate) fn accept() -> Statement {
    verdict(Verdict::Other(NF_ACCEPT), None)
}

/// `drop`
pub(crate) fn drop() -> Statement {
    verdict(Verdict::Other(NF_DROP), None)
}

/// `return`
pub(crate) fn back() -> Statement {
    verdict(Verdict::Return, None)
}

/// `goto chain`
pub(crate) fn goto(chain: &str) -> Statement {
    verdict(Verdict::Goto, Some(chain))
}

/// `jump chain`
pub(crate) fn jump(chain: &str) -> Statement {
    verdict(Verdict::Jump, Some(chain))
}

/// `counter`
pub(crate) fn counter() -> Statement {
    vec![other("counter", vec![])]
}

/// `limit rate over rate/second burst burst packets`: goes on with what is over it.
pub(crate) fn limit_over(rate: u32, burst: u32) -> Statement {
    let long = |kind, value: u64| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let (in_packets, over) = (number(4, 0), number(5, 1));
    vec![other("limit", vec![long(1, rate.into()), long(2, 1), number(3, burst), in_packets, over])]
}

/// `update @set { address … }`, with the address that was looked up last; each element has these expressions. Goes on if
/// all of them do; ends the rule if the set is full.
pub(crate) fn update(set: &str, expressions: Statement) -> Statement {
    const UPDATE: u32 = 1;
    const HAS_EXPRESSIONS: u32 = 2;
    let mut list = vec![0; expressions.as_slice().buffer_len()];
    expressions.as_slice().emit(&mut list);
    vec![other(
        "dynset",
        vec![
            DefaultNla::new(1, format!("{set}\0").into_bytes()),
            number(3, UPDATE),
            number(4, u32::from(Register::Reg1)),
            number(9, HAS_EXPRESSIONS),
            DefaultNla::new(10 | NLA_F_NESTED, list),
        ],
    )]
}

/// `meta mark & mask == value`
pub(crate) fn mark_is(mask: u32, value: u32) -> Statement {
    vec![load(MetaKey::Mark), masked(mask), compare(Operator::Equal, value.to_ne_bytes())]
}

/// `meta mark & mask != 0`
pub(crate) fn mark_any(mask: u32) -> Statement {
    vec![load(MetaKey::Mark), masked(mask), compare(Operator::NotEqual, [0; 4])]
}

/// `meta skuid != 4294967295`: a socket of this network namespace sent it, whoever's. What is forwarded or bridged has none.
pub(crate) fn has_socket() -> Statement {
    vec![load(MetaKey::SocketUserId), compare(Operator::NotEqual, [0xff; 4])]
}

/// `meta mark set (meta mark & ~clear) | set`
pub(crate) fn set_mark(clear: u32, set: u32) -> Statement {
    let store = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)]);
    vec![load(MetaKey::Mark), bitwise(&(!(clear | set)).to_ne_bytes(), &set.to_ne_bytes()), store.into()]
}

/// `ct mark & bit != 0`
pub(crate) fn connection_mark(bit: u32) -> Statement {
    vec![connection(CT_MARK), masked(bit), compare(Operator::NotEqual, [0; 4])]
}

/// `ct mark set ct mark | bit`
pub(crate) fn set_connection_mark(bit: u32) -> Statement {
    vec![connection(CT_MARK), bitwise(&(!bit).to_ne_bytes(), &bit.to_ne_bytes()), set_connection(CT_MARK)]
}

/// `ct label bit`: is it set (`true`), or is it not, or is there no room for labels at all (`false`)?
pub(crate) fn label(bits: [u8; 16], set: bool) -> Statement {
    let op = if set { Operator::NotEqual } else { Operator::Equal };
    vec![connection(CT_LABELS), bitwise(&bits, &[0; 16]), compare(op, [0; 16])]
}

/// `ct label set bit`: other labels stay (`nft_ct_set_eval` replaces under the mask of the value).
pub(crate) fn set_label(bits: [u8; 16]) -> Statement {
    let value = vec![Immediate::DestinationRegister(Register::Reg1), Immediate::Data(data(bits))];
    vec![Expressions::Immediate(value).into(), set_connection(CT_LABELS)]
}

/// `ct direction …`; does not match a packet without conntrack.
pub(crate) fn direction(direction: Direction) -> Statement {
    vec![connection(CT_DIRECTION), compare(Operator::Equal, [direction as u8])]
}

/// `ct state` has (`true`) or has not (`false`) one of `states`.
pub(crate) fn state(states: u32, has: bool) -> Statement {
    let op = if has { Operator::NotEqual } else { Operator::Equal };
    vec![connection(CT_STATE), masked(states), compare(op, [0; 4])]
}

/// `meta l4proto protocol`
pub(crate) fn protocol(protocol: i32) -> Statement {
    vec![load(MetaKey::L4Proto), compare(Operator::Equal, [protocol as u8])]
}

/// `meta l4proto != protocol`
pub(crate) fn not_protocol(protocol: i32) -> Statement {
    vec![load(MetaKey::L4Proto), compare(Operator::NotEqual, [protocol as u8])]
}

/// `meta nfproto …`
pub(crate) fn family(family: Family) -> Statement {
    let number = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    vec![load(MetaKey::Nfproto), compare(Operator::Equal, [number])]
}

/// `fib saddr|daddr type local`
pub(crate) fn local(end: End) -> Statement {
    let flags = match end {
        End::Source => FIB_SADDR,
        End::Destination => FIB_DADDR,
    };
    vec![fib(FIB_RESULT_ADDRTYPE, flags), compare(Operator::Equal, RTN_LOCAL.to_ne_bytes())]
}

fn fib(result: u32, flags: u32) -> Expression {
    other("fib", vec![number(1, u32::from(Register::Reg1)), number(2, result), number(3, flags)])
}

/// `fib saddr . iif oif 0`: what is sent to the source does not go where the packet came from. Not at postrouting.
pub(crate) fn no_way_back() -> Statement {
    vec![fib(FIB_RESULT_OIF, FIB_SADDR | FIB_IIF), compare(Operator::Equal, [0; 4])]
}

/// `meta iif @set`
pub(crate) fn comes_by(set: &str) -> Statement {
    vec![load(MetaKey::Iif), lookup(set, 0)]
}

/// `ip|ip6 saddr|daddr @within … != @without`
pub(crate) fn address(family_of: Family, end: End, within: &str, without: &str) -> Statement {
    let mut statement = address_in(family_of, end, within);
    statement.push(lookup(without, LOOKUP_INVERTED));
    statement
}

/// `ip|ip6 saddr|daddr @set`
pub(crate) fn address_in(family_of: Family, end: End, set: &str) -> Statement {
    let mut statement = family(family_of);
    statement.push(payload(NETWORK_HEADER, offset(family_of, end), family_of.length()));
    statement.push(lookup(set, 0));
    statement
}

/// Where an address stands in the header.
fn offset(family: Family, end: End) -> u32 {
    match (family, end) {
        (Family::V4, End::Source) => 12,
        (Family::V4, End::Destination) => 16,
        (Family::V6, End::Source) => 8,
        (Family::V6, End::Destination) => 24,
    }
}

/// `ip|ip6 saddr . ip|ip6 daddr . meta l4proto . th dport @set`; without `source`: of the other three. A packet that does
/// not show its ports does not match.
pub(crate) fn cached(family_of: Family, source: bool, set: &str) -> Statement {
    let length = family_of.length();
    let first = if source { End::Source } else { End::Destination };
    let mut statement = family(family_of);
    statement.push(payload(NETWORK_HEADER, offset(family_of, first), length));
    // Each field fills registers of 32 bits, one after the other; the first of these is register 1's beginning.
    let mut next = u32::from(Register::Reg32_00) + length / 4;
    if source {
        let from = offset(family_of, End::Destination);
        statement.push(payload_to(Register::from(next), NETWORK_HEADER, from, length));
        next += length / 4;
    }
    let protocol = vec![Meta::Key(MetaKey::L4Proto), Meta::DestinationRegister(Register::from(next))];
    statement.push(Expressions::Meta(protocol).into());
    statement.push(payload_to(Register::from(next + 1), TRANSPORT_HEADER, 2, 2));
    statement.push(lookup(set, 0));
    statement
}

/// `ip|ip6 saddr|daddr != @set`
pub(crate) fn address_not_in(family_of: Family, end: End, set: &str) -> Statement {
    let mut statement = address_in(family_of, end, set);
    statement.pop();
    statement.push(lookup(set, LOOKUP_INVERTED));
    statement
}

/// `ip|ip6 saddr|daddr & mask != @set`
pub(crate) fn address_masked_not_in(family_of: Family, end: End, mask: &[u8], set: &str) -> Statement {
    let mut statement = address_not_in(family_of, end, set);
    statement.insert(statement.len() - 1, bitwise(mask, &vec![0; mask.len()]));
    statement
}

fn lookup(set: &str, flags: u32) -> Expression {
    let mut attributes = vec![Lookup::Set(set.into()), Lookup::SourceRegister(Register::Reg1)];
    if flags != 0 {
        attributes.push(Lookup::Flags(flags));
    }
    Expressions::Lookup(attributes).into()
}

/// `meta nfproto ipv6 meta l4proto ipv6-icmp icmpv6 type first-last ip6 hoplimit 255`
pub(crate) fn neighbour_discovery(types: RangeInclusive<u8>) -> Statement {
    let mut statement = [family(Family::V6), protocol(libc::IPPROTO_ICMPV6)].concat();
    statement.push(payload(TRANSPORT_HEADER, 0, 1));
    statement.push(compare(Operator::GreatherThanEqual, [*types.start()]));
    statement.push(compare(Operator::LessThanEqual, [*types.end()]));
    statement.push(payload(NETWORK_HEADER, 7, 1));
    statement.push(compare(Operator::Equal, [255]));
    statement
}

/// `meta nfproto ipv6 meta l4proto ipv6-icmp icmpv6 type >= first`
pub(crate) fn icmpv6_from(first: u8) -> Statement {
    let mut statement = [family(Family::V6), protocol(libc::IPPROTO_ICMPV6)].concat();
    statement.push(payload(TRANSPORT_HEADER, 0, 1));
    statement.push(compare(Operator::GreatherThanEqual, [first]));
    statement
}

/// `meta l4proto tcp tcp flags & syn == 0`
pub(crate) fn tcp_without_syn() -> Statement {
    let mut statement = protocol(libc::IPPROTO_TCP);
    statement.push(payload(TRANSPORT_HEADER, 13, 1));
    statement.push(bitwise(&[0x02], &[0]));
    statement.push(compare(Operator::Equal, [0]));
    statement
}

/// `symhash mod modulus vmap @map`: the hash of addresses, protocol and ports, the same in both directions.
pub(crate) fn by_flow(modulus: u32, map: &str) -> Statement {
    const SYMMETRIC: u32 = 1;
    let hash = vec![number(2, u32::from(Register::Reg1)), number(4, modulus), number(7, SYMMETRIC)];
    let attributes = vec![
        Lookup::Set(map.into()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::DestinationRegister(Register::Verdict),
    ];
    vec![other("hash", hash), Expressions::Lookup(attributes).into()]
}

/// `symhash mod 2`, to see whether it is there.
pub(crate) fn flow_hash() -> Statement {
    vec![other("hash", vec![number(2, u32::from(Register::Reg1)), number(4, 2), number(7, 1)])]
}

/// `queue num first-last [bypass]`, by the native expression.
pub(crate) fn queue(queues: &RangeInclusive<u16>, bypass: bool) -> Statement {
    vec![other("queue", vec![short(1, *queues.start()), short(2, count(queues)), short(3, u16::from(bypass))])]
}

/// The same by the compat expression: xtables' target NFQUEUE, revision 3 (`struct xt_NFQ_info_v3`, host order).
pub(crate) fn queue_compat(queues: &RangeInclusive<u16>, bypass: bool) -> Statement {
    let info = [*queues.start(), count(queues), u16::from(bypass)].map(u16::to_ne_bytes).concat();
    vec![other("target", vec![DefaultNla::new(1, b"NFQUEUE\0".to_vec()), number(2, 3), DefaultNla::new(3, info)])]
}

fn count(queues: &RangeInclusive<u16>) -> u16 {
    queues.end().saturating_sub(*queues.start()).saturating_add(1)
}
