//! Random flows, biased towards the edges of what a world speaks of: the ends of its blocks, its ports ± 1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podgate_api::{Direction, Object, Peer, Peers, PortMatch};
use podgate_engine::protocol;
use podgate_policy::reference::Flow;

use crate::common::address;
use crate::common::rng::Rng;
use crate::generate::PORTS;

const PROTOCOLS: [u8; 10] = [
    protocol::TCP,
    protocol::TCP,
    protocol::TCP,
    protocol::TCP,
    protocol::UDP,
    protocol::UDP,
    protocol::SCTP,
    protocol::ICMP,
    protocol::ICMPV6,
    47, // GRE: a protocol that policies cannot name
];

/// What flows over these objects may be about.
pub struct Candidates {
    pods: [Vec<IpAddr>; 2],
    others: [Vec<IpAddr>; 2],
    ports: Vec<u16>,
}

impl Candidates {
    /// From all these objects (for a sequence: those of every step).
    pub fn of<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let outside = ["203.0.113.9", "10.1.0.99", "0.0.0.0", "255.255.255.255", "2001:db8::9", "fd00:1::99", "::1"];
        let (mut pods, mut others) = (Vec::new(), outside.map(address).to_vec());
        let mut ports = PORTS.to_vec();
        for object in objects {
            match object {
                Object::Pod(pod) => {
                    pods.extend(&pod.addresses);
                    others.extend(&pod.host_addresses);
                }
                Object::Node(node) => others.extend(&node.addresses),
                Object::Namespace(_) => {}
                Object::Policy(policy) => {
                    for rule in Direction::BOTH.iter().flat_map(|d| policy.rules(*d)) {
                        others.extend(edges(&rule.peers));
                        ports.extend(rule.ports.iter().flat_map(port_edges));
                    }
                }
            }
        }
        let split = |all: Vec<IpAddr>| {
            let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(IpAddr::is_ipv4);
            [v4, v6]
        };
        Candidates { pods: split(pods), others: split(others), ports }
    }

    fn address(&self, rng: &mut Rng, family: usize) -> IpAddr {
        let pods = &self.pods[family];
        if !pods.is_empty() && rng.chance(75) { *rng.pick(pods) } else { *rng.pick(&self.others[family]) }
    }

    /// One flow, both ends of one family.
    pub fn flow(&self, rng: &mut Rng) -> Flow {
        let family = rng.chance(35) as usize;
        let source = self.address(rng, family);
        let destination = if rng.chance(3) { source } else { self.address(rng, family) };
        let protocol = *rng.pick(&PROTOCOLS);
        let shown = protocol::has_ports(protocol) && rng.chance(96);
        Flow { source, destination, protocol, port: shown.then(|| *rng.pick(&self.ports)) }
    }

    pub fn flows(&self, rng: &mut Rng, count: usize) -> Vec<Flow> {
        (0..count).map(|_| self.flow(rng)).collect()
    }
}

fn edges(peers: &Peers) -> Vec<IpAddr> {
    let Peers::Of(peers) = peers else { return Vec::new() };
    let blocks = peers.iter().filter_map(|p| if let Peer::Block(b) = p { Some(b) } else { None });
    blocks.flat_map(|b| std::iter::once(b.cidr).chain(b.except.iter().copied())).flat_map(block_edges).collect()
}

/// The first and last address, and their neighbours outside.
fn block_edges(block: IpNet) -> [IpAddr; 4] {
    let (first, last) = (block.network(), block.broadcast());
    [first, last, step(first, -1), step(last, 1)]
}

fn step(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add_signed(by.into())).into(),
    }
}

fn port_edges(port: &PortMatch) -> Vec<u16> {
    match port {
        PortMatch::Range { first, last, .. } => vec![*first, *last, first.wrapping_sub(1), last.wrapping_add(1)],
        PortMatch::Named { .. } => Vec::new(),
    }
}
