//! A million connections of the cluster, as [`Flow`]s and as the packets that open them.
//!
//! Four in five are with another pod, any of the cluster's; the others with addresses outside (inside the blocks of
//! some policies and outside of all) and with nodes. Seven in ten are TCP, the others UDP, ICMP and SCTP; every other
//! port is one that policies are about. Not here: the cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podgate_engine::{Addr, Flow, Port, protocol};

use crate::rng::Rng;
use crate::world::{NODES, PODS, local_pods, node_address, pod_v4, pod_v6};

/// How many flows: above a million, and a power of two, so that a walk through them costs no division.
pub const FLOWS: usize = 1 << 20;

/// The address family of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whose traffic it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One end at least is a pod of the node: what its agent sees.
    Node,
    /// Any pod may be at either end: what `podgate test` sees.
    All,
}

impl Family {
    /// As benchmark names say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }
}

impl Scope {
    /// As benchmark names say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Node => "node",
            Scope::All => "all",
        }
    }
}

/// The first bytes of a packet, as a queue copies them: network and transport header, 64 bytes at most.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct PacketBytes([u8; 64]);

impl PacketBytes {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Ports that policies of the cluster are about.
const PORTS: [u16; 12] = [443, 8080, 8081, 8084, 8089, 9090, 53, 80, 5432, 6379, 9092, 3306];

/// The flows of a seed.
pub fn flows(seed: u64, family: Family, scope: Scope) -> Vec<Flow> {
    let local: Vec<usize> = local_pods().collect();
    let rng = &mut Rng::keyed(seed, 3 + family as u64 * 2 + scope as u64);
    (0..FLOWS).map(|_| flow(rng, family, scope, &local)).collect()
}

fn flow(rng: &mut Rng, family: Family, scope: Scope, local: &[usize]) -> Flow {
    let here = match scope {
        Scope::Node => *rng.pick(local),
        Scope::All => rng.below(PODS),
    };
    let here = pod(here, family);
    let there = match rng.below(100) {
        0..80 => pod(rng.below(PODS), family),
        80..95 => outside(rng, family),
        _ => node(rng, family),
    };
    let (source, destination) = if rng.percent(50) { (here, there) } else { (there, here) };
    let protocol = match rng.below(100) {
        0..70 => protocol::TCP,
        70..95 => protocol::UDP,
        95..98 if family == Family::V4 => protocol::ICMP,
        95..98 => protocol::ICMPV6,
        _ => protocol::SCTP,
    };
    let port = match protocol::has_ports(protocol) {
        false => Port::None,
        true if rng.percent(50) => Port::Number(*rng.pick(&PORTS)),
        true => Port::Number(rng.next() as u16),
    };
    Flow { source: Addr::from(source), destination: Addr::from(destination), protocol, port }
}

fn pod(pod: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => pod_v4(pod).into(),
        Family::V6 => pod_v6(pod).into(),
    }
}

fn outside(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(rng.next() as u32).into(),
        Family::V6 => {
            let segment = rng.below(1 << 16) as u16;
            Ipv6Addr::new(0x2001, 0xdb8, segment, rng.next() as u16, 0, 0, 0, rng.next() as u16).into()
        }
    }
}

fn node(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => node_address(rng.below(NODES)),
        // Nodes of the cluster have IPv4 addresses only: an address of the outside world instead.
        Family::V6 => outside(rng, family),
    }
}

/// The packet that opens each flow. TCP ones have SYN set; lengths and checksums are left 0, nothing reads them.
pub fn packets(flows: &[Flow]) -> Vec<PacketBytes> {
    flows.iter().map(packet).collect()
}

fn packet(flow: &Flow) -> PacketBytes {
    let mut bytes = [0; 64];
    let header = match (flow.source.ip(), flow.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[0] = 0x45;
            bytes[8] = 64;
            bytes[9] = flow.protocol;
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
            20
        }
        _ => {
            bytes[0] = 0x60;
            bytes[6] = flow.protocol;
            bytes[7] = 64;
            bytes[8..24].copy_from_slice(&flow.source.bits().to_be_bytes());
            bytes[24..40].copy_from_slice(&flow.destination.bits().to_be_bytes());
            40
        }
    };
    if let Port::Number(port) = flow.port {
        bytes[header..header + 2].copy_from_slice(&40_000_u16.to_be_bytes());
        bytes[header + 2..header + 4].copy_from_slice(&port.to_be_bytes());
    }
    if flow.protocol == protocol::TCP {
        bytes[header + 12] = 0x50;
        bytes[header + 13] = 0x02;
    }
    PacketBytes(bytes)
}

#[cfg(test)]
mod tests {
    use podgate_engine::packet::parse;

    use super::*;

    #[test]
    fn a_packet_says_the_flow_that_it_was_made_of() {
        for family in [Family::V4, Family::V6] {
            let rng = &mut Rng::new(1);
            for _ in 0..1000 {
                let flow = flow(rng, family, Scope::All, &[]);
                assert_eq!(parse(packet(&flow).bytes()).unwrap().flow, flow);
            }
        }
    }

    #[test]
    fn a_node_s_flows_all_have_an_end_there() {
        let local: Vec<Addr> = local_pods().map(|p| Addr::from(IpAddr::from(pod_v4(p)))).collect();
        let rng = &mut Rng::new(1);
        let pods: Vec<usize> = local_pods().collect();
        for _ in 0..1000 {
            let flow = flow(rng, Family::V4, Scope::Node, &pods);
            assert!(local.contains(&flow.source) || local.contains(&flow.destination));
        }
    }
}
