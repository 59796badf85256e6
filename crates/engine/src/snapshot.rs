//! [`Snapshot`]: the whole of what is enforced, immutable, and [`Snapshot::judge`].

use std::fmt;

use crate::ports::port_key;
use crate::rule_table::Peer;
use crate::{
    Addr, Cause, Decision, Direction, Endpoint, EndpointKind, Flow, Generation, Group, Judgement, Port, PortNames,
    RuleId, RuleInfo, Tables,
};

/// Whose word says that a source address really is this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOrigin {
    /// The flow's source address: right where flows are asked about (`podgate test`, `explain`).
    Address,
    /// Nobody: the kernel program has let pass what the node itself sends, so a queued packet with a node's source
    /// address is forged or masqueraded and is judged like any other address.
    Forged,
}

/// Everything that verdicts need, immutable and shared.
#[derive(Clone)]
pub struct Snapshot {
    generation: Generation,
    tables: Tables,
}

/// One end of a flow: its address and what is known of it.
#[derive(Clone, Copy)]
struct End {
    address: Addr,
    endpoint: Option<Endpoint>,
}

impl Snapshot {
    /// A world without anything: no local pod, every flow open.
    pub fn empty() -> Self {
        Self::new(Generation(0), Tables::new())
    }

    /// The snapshot of these tables.
    pub fn new(generation: Generation, tables: Tables) -> Self {
        Self { generation, tables }
    }

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Its tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The verdict for a new connection: egress of its source and ingress of its destination, each only where that
    /// end is a subject of this snapshot (a local pod), or is unknown in the pod ranges. Where the tables contradict
    /// themselves, the answer is [`Cause::Unknown`]: a denial.
    #[inline]
    pub fn judge(&self, flow: &Flow, origin: NodeOrigin) -> Judgement {
        let source = End { address: flow.source, endpoint: self.tables.endpoint(flow.source) };
        let destination = End { address: flow.destination, endpoint: self.tables.endpoint(flow.destination) };
        let key = port_key(flow.protocol, flow.port);
        Judgement {
            egress: Decision { cause: self.decide(Direction::Egress, source, destination, origin, key) },
            ingress: Decision { cause: self.decide(Direction::Ingress, destination, source, origin, key) },
        }
    }

    /// The rule that denies this to every source that is no pod, nor the destination's own node: whichever other address
    /// it is, that is the cause of ingress. `None`: it depends on the address.
    pub fn closed(&self, destination: Addr, protocol: u8, port: Port) -> Option<RuleId> {
        let endpoint = self.tables.endpoint(destination).filter(|e| e.kind == EndpointKind::LocalPod)?;
        let group = self.tables.group(endpoint.group).filter(|group| group.subject != 0)?;
        let table = self.tables.subject(group.subject)?.table(Direction::Ingress)?;
        table.closed(port_key(protocol, port), self.tables.port_names(group.ports)?)
    }

    #[inline]
    fn decide(&self, direction: Direction, this: End, other: End, origin: NodeOrigin, key: u32) -> Cause {
        let Some(subject) = this.endpoint else {
            return if self.tables.in_pod_ranges(this.address) { Cause::Unknown } else { Cause::Open };
        };
        if subject.kind != EndpointKind::LocalPod {
            return Cause::Open;
        }
        let itself =
            this.address == other.address || subject.exceptional && self.tables.same_pod(this.address, other.address);
        // What a pod sends to its own address never leaves it: such a packet in the queue went through a Service, and
        // cluster tiers decide about it.
        if itself && origin == NodeOrigin::Address {
            return Cause::Itself;
        }
        let own_node =
            self.is_own_node(subject, other) && (direction, origin) != (Direction::Ingress, NodeOrigin::Forged);
        if own_node && direction == Direction::Ingress {
            return Cause::OwnNode;
        }
        let exempt = if itself { Some(Cause::Itself) } else { own_node.then_some(Cause::OwnNode) };
        let undecided = exempt.unwrap_or(Cause::Open);
        let Some(group) = self.tables.group(subject.group) else { return Cause::Unknown };
        if group.subject == 0 {
            return undecided;
        }
        let Some(class) = self.tables.subject(group.subject) else { return Cause::Unknown };
        let Some(table) = class.table(direction) else { return undecided };
        match self.peer(group, other, table.uses_names().then_some(direction)) {
            Some((peer, names)) => table.cause(&Peer { exempt, ..peer }, key, names),
            None => Cause::Unknown,
        }
    }

    /// The other end as rules see it, and the names of the destination's ports where they are asked for.
    #[inline]
    fn peer(&self, subject: Group, other: End, named: Option<Direction>) -> Option<(Peer, &PortNames)> {
        let (group, block) = match other.endpoint {
            Some(endpoint) => (self.tables.group(endpoint.group)?, endpoint.block),
            None => (Group::default(), self.tables.range(other.address)),
        };
        let block = self.tables.block(block)?;
        let names = match named {
            None => 0,
            Some(Direction::Ingress) => subject.ports,
            Some(Direction::Egress) => group.ports,
        };
        let classes = [group.narrow, group.broad, block.narrow, block.broad];
        Some((Peer { classes, exempt: None }, self.tables.port_names(names)?))
    }

    #[inline]
    fn is_own_node(&self, pod: Endpoint, other: End) -> bool {
        let Some(node) = other.endpoint.filter(|e| e.kind == EndpointKind::Node) else { return false };
        pod.node != 0 && (pod.node == node.node || node.exceptional && self.tables.is_node_of(other.address, pod.node))
    }

    /// What a rule's number stands for.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        self.tables.rule(id).map(|rule| &**rule)
    }

    /// The rules that exist, by ascending number.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleInfo)> {
        self.tables.rules()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({})", self.generation.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::flow::protocol::TCP;
    use crate::{DirectionTable, Port, RuleTable, Subject, Then, Verdict};

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn flow(source: &str, destination: &str) -> Flow {
        Flow { source: addr(source), destination: addr(destination), protocol: TCP, port: Port::Number(80) }
    }

    const DENIED: Cause = Cause::Denied(RuleId(7));

    /// Pod 10.0.0.1 on node 1 (192.0.2.1) is denied everything in both directions, pod 10.0.0.2 is nobody's subject,
    /// pod 10.0.0.9 is remote.
    fn tables() -> Tables {
        let mut tables = Tables::new();
        let nothing = RuleTable::new(&[], false, 0);
        let all = Arc::new(DirectionTable { admin: None, then: Then::Isolated(nothing, RuleId(7)) });
        tables.set_subject(1, Some(Subject { ingress: Some(all.clone()), egress: Some(all) }));
        tables.set_group(1, Some(Group { subject: 1, ..Group::default() }));
        let endpoint = |group, node, kind| Some(Endpoint { group, block: 0, node, kind, exceptional: false });
        tables.set_endpoint(addr("10.0.0.1"), endpoint(1, 1, EndpointKind::LocalPod));
        tables.set_endpoint(addr("10.0.0.2"), endpoint(0, 1, EndpointKind::LocalPod));
        tables.set_endpoint(addr("10.0.0.9"), endpoint(1, 2, EndpointKind::RemotePod));
        tables.set_endpoint(addr("192.0.2.1"), endpoint(0, 1, EndpointKind::Node));
        tables.set_endpoint(addr("192.0.2.2"), endpoint(0, 2, EndpointKind::Node));
        tables.set_pod_ranges(&["10.0.0.0/24".parse().unwrap()]);
        tables
    }

    fn judge(tables: &Tables, source: &str, destination: &str, origin: NodeOrigin) -> (Cause, Cause) {
        let judgement = Snapshot::new(Generation(1), tables.clone()).judge(&flow(source, destination), origin);
        (judgement.egress.cause, judgement.ingress.cause)
    }

    #[test]
    fn each_end_is_judged_only_where_it_is_a_local_pod() {
        let tables = tables();
        let judge = |source, destination| judge(&tables, source, destination, NodeOrigin::Address);
        assert_eq!(judge("10.0.0.1", "10.0.0.2"), (DENIED, Cause::Open));
        assert_eq!(judge("10.0.0.2", "10.0.0.1"), (Cause::Open, DENIED));
        assert_eq!(judge("10.0.0.9", "10.0.0.9"), (Cause::Open, Cause::Open));
        assert_eq!(judge("10.0.0.9", "10.0.0.1"), (Cause::Open, DENIED));
        assert_eq!(judge("203.0.113.9", "8.8.8.8"), (Cause::Open, Cause::Open));
        assert_eq!(judge("10.0.0.1", "10.0.0.1"), (Cause::Itself, Cause::Itself));
    }

    #[test]
    fn an_unknown_address_in_the_pod_ranges_is_denied() {
        let tables = tables();
        assert_eq!(judge(&tables, "10.0.0.77", "8.8.8.8", NodeOrigin::Forged), (Cause::Unknown, Cause::Open));
        assert_eq!(judge(&tables, "8.8.8.8", "10.0.0.77", NodeOrigin::Forged), (Cause::Open, Cause::Unknown));
    }

    #[test]
    fn the_own_node_is_exempt_unless_forged_and_other_nodes_never_are() {
        let tables = tables();
        assert_eq!(judge(&tables, "192.0.2.1", "10.0.0.1", NodeOrigin::Address), (Cause::Open, Cause::OwnNode));
        assert_eq!(judge(&tables, "192.0.2.1", "10.0.0.1", NodeOrigin::Forged), (Cause::Open, DENIED));
        assert_eq!(judge(&tables, "192.0.2.2", "10.0.0.1", NodeOrigin::Address), (Cause::Open, DENIED));
        assert_eq!(judge(&tables, "10.0.0.1", "192.0.2.1", NodeOrigin::Forged), (Cause::OwnNode, Cause::Open));
        assert_eq!(judge(&tables, "10.0.0.1", "192.0.2.2", NodeOrigin::Forged), (DENIED, Cause::Open));
    }

    #[test]
    fn an_address_of_several_nodes_is_each_ones_and_a_pod_knows_its_other_address() {
        let mut tables = tables();
        let endpoint = |kind| Some(Endpoint { group: 1, block: 0, node: 1, kind, exceptional: true });
        tables.set_endpoint(addr("192.0.2.2"), Some(Endpoint { node: 2, ..endpoint(EndpointKind::Node).unwrap() }));
        tables.set_endpoint(addr("10.0.0.3"), endpoint(EndpointKind::LocalPod));
        tables.set_endpoint(addr("10.0.0.4"), endpoint(EndpointKind::LocalPod));
        let nodes_of = vec![(addr("192.0.2.2"), 1), (addr("192.0.2.2"), 2)];
        tables.set_exceptions(nodes_of, vec![(addr("10.0.0.3"), 5), (addr("10.0.0.4"), 5)]);
        assert_eq!(judge(&tables, "10.0.0.1", "192.0.2.2", NodeOrigin::Forged), (Cause::OwnNode, Cause::Open));
        assert_eq!(judge(&tables, "10.0.0.3", "10.0.0.4", NodeOrigin::Forged), (Cause::Itself, Cause::Itself));
        assert_eq!(judge(&tables, "10.0.0.3", "10.0.0.1", NodeOrigin::Forged), (DENIED, DENIED));
    }

    #[test]
    fn tables_that_contradict_themselves_deny() {
        let mut tables = tables();
        tables.set_subject(1, None);
        assert_eq!(judge(&tables, "10.0.0.1", "8.8.8.8", NodeOrigin::Forged).0, Cause::Unknown);
        tables.set_group(1, None);
        assert_eq!(judge(&tables, "10.0.0.1", "8.8.8.8", NodeOrigin::Forged).0, Cause::Unknown);
        let judgement = Snapshot::new(Generation(1), tables).judge(&flow("10.0.0.1", "8.8.8.8"), NodeOrigin::Forged);
        assert_eq!(judgement.verdict(), Verdict::Drop);
    }
}
