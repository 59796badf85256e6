//! Policies of the cluster: the k-th is the same whatever their number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podgate_api::{
    Action, IpBlock, Kind, LabelSelector, NamespaceMatch, ObjectKey, Operator, Peer, Peers, PolicySpec, PortMatch,
    Protocol, Requirement, Rule, Subject, Tier,
};

use super::{APPS_IN_BIG, BIG_NAMESPACES, STAGES, TEAMS, TIERS, namespace_name};
use crate::rng::Rng;

/// The `k`-th policy. The first ten are about everything in a big namespace, the others about one app each.
pub(super) fn policy(seed: u64, k: usize) -> PolicySpec {
    let rng = &mut Rng::keyed(seed ^ 2, k as u64);
    let namespace = k % BIG_NAMESPACES;
    let (subject, ingress, egress) = if k < BIG_NAMESPACES {
        (LabelSelector::default(), vec![from_stage(), from_block(rng)], vec![to_anybody_by_web(), to_dns()])
    } else {
        let app = (k / BIG_NAMESPACES) % APPS_IN_BIG;
        let ingress = (0..1 + rng.below(4)).map(|_| ingress_rule(rng)).collect();
        let egress = (0..rng.below(4)).map(|_| egress_rule(rng)).collect();
        (label("app", &format!("app-{app}")), ingress, egress)
    };
    PolicySpec {
        key: ObjectKey { kind: Kind::NetworkPolicy, namespace: namespace_name(namespace), name: format!("policy-{k}") },
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject { namespaces: NamespaceMatch::Own, pods: subject },
        isolates_ingress: true,
        isolates_egress: !egress.is_empty(),
        ingress,
        egress,
        caveats: Vec::new(),
    }
}

fn from_stage() -> Rule {
    let peer =
        Peer::Pods { namespaces: NamespaceMatch::Labels(label("stage", STAGES[0])), pods: LabelSelector::default() };
    rule(vec![peer], vec![range(Protocol::Tcp, 8080, 8084), named("metrics")])
}

fn from_block(rng: &mut Rng) -> Rule {
    rule(vec![block(rng)], vec![range(Protocol::Tcp, 443, 443)])
}

fn to_anybody_by_web() -> Rule {
    let everybody =
        Peer::Pods { namespaces: NamespaceMatch::Labels(LabelSelector::default()), pods: LabelSelector::default() };
    rule(vec![everybody], vec![range(Protocol::Tcp, 443, 443), named("http")])
}

fn to_dns() -> Rule {
    let dns = Peer::Pods {
        namespaces: NamespaceMatch::Labels(label("kubernetes.io/metadata.name", "ns-999")),
        pods: label("tier", TIERS[1]),
    };
    rule(vec![dns], vec![range(Protocol::Udp, 53, 53), range(Protocol::Tcp, 53, 53)])
}

fn ingress_rule(rng: &mut Rng) -> Rule {
    let peers = (0..1 + rng.below(3)).map(|_| if rng.percent(25) { block(rng) } else { pods(rng) }).collect();
    rule(peers, ports(rng))
}

fn egress_rule(rng: &mut Rng) -> Rule {
    let peers = (0..1 + rng.below(2)).map(|_| if rng.percent(35) { block(rng) } else { pods(rng) }).collect();
    rule(peers, ports(rng))
}

fn pods(rng: &mut Rng) -> Peer {
    let by_label = match rng.below(3) {
        0 => label("app", &format!("app-{}", rng.below(APPS_IN_BIG))),
        1 => label("tier", TIERS[rng.below(TIERS.len())]),
        _ => LabelSelector::new([
            requirement("tier", Operator::In, &[TIERS[rng.below(5)], TIERS[rng.below(5)]]),
            requirement("track", Operator::NotIn, &["canary"]),
        ]),
    };
    let namespaces = match rng.below(3) {
        0 => NamespaceMatch::Labels(label("team", &format!("team-{}", rng.below(TEAMS)))),
        1 => NamespaceMatch::Labels(label("stage", STAGES[rng.below(STAGES.len())])),
        _ => NamespaceMatch::Own,
    };
    Peer::Pods { namespaces, pods: by_label }
}

/// A block of the outside world or of the pods' own ranges, IPv4 or IPv6, mostly with a part taken out.
fn block(rng: &mut Rng) -> Peer {
    let (address, length): (IpAddr, u8) = match rng.below(3) {
        0 => (Ipv4Addr::new(10, 64 + rng.below(2) as u8, rng.below(256) as u8, 0).into(), 20 + rng.below(5) as u8),
        1 => (Ipv4Addr::from(rng.next() as u32).into(), 12 + rng.below(13) as u8),
        _ => {
            let segment = rng.below(1 << 16) as u16;
            (Ipv6Addr::new(0x2001, 0xdb8, segment, 0, 0, 0, 0, 0).into(), 40 + rng.below(16) as u8)
        }
    };
    let cidr = net(address, length);
    let mut except = Vec::new();
    if rng.percent(60) {
        except.push(net(cidr.network(), length + 2));
    }
    Peer::Block(IpBlock { cidr, except })
}

fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new_assert(address, length).trunc()
}

fn ports(rng: &mut Rng) -> Vec<PortMatch> {
    match rng.below(5) {
        0 => vec![named("http")],
        1 => vec![range(Protocol::Tcp, 8080, 8080 + rng.below(10) as u16), named("metrics")],
        2 => vec![range(Protocol::Udp, 53, 53), range(Protocol::Tcp, 53, 53)],
        3 => {
            let port = *rng.pick(&[80, 443, 5432, 6379, 9092, 3306]);
            vec![range(Protocol::Tcp, port, port)]
        }
        _ => Vec::new(),
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
    Rule { name: None, action: Action::Accept, peers: Peers::Of(peers), ports }
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch::Range { protocol, first, last }
}

fn named(name: &str) -> PortMatch {
    PortMatch::Named { protocol: Protocol::Tcp, name: name.to_owned() }
}

fn label(key: &str, value: &str) -> LabelSelector {
    LabelSelector::new([requirement(key, Operator::In, &[value])])
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.to_owned(), operator, values: values.iter().map(|v| (*v).to_owned()).collect() }
}
