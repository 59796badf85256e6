//! Whether a rule matches a flow, and if not, which condition failed.

use std::net::IpAddr;

use podgate_api::{Action, Direction, LabelSelector, Peer, Peers, PolicySpec, PortMatch, Protocol, Rule};
use podgate_engine::protocol;

use super::mismatch::{Mismatch, PeerMismatch, PortMismatch};
use super::selection::{label_mismatches, pod_matches};
use super::{Flow, owner};
use crate::World;

/// Whether the rule is about this flow: one of its peers must match, and one of its ports. If not, what fails in each
/// peer and each port of it, in their order.
pub fn rule_matches(
    world: &World,
    policy: &PolicySpec,
    rule: &Rule,
    flow: &Flow,
    direction: Direction,
) -> Result<(), Mismatch> {
    let other = flow.other_end(direction);
    let peers = match &rule.peers {
        Peers::Any => Ok(()),
        Peers::Of(peers) => first_ok(peers, |peer| peer_matches(world, policy, peer, other)),
    };
    let ports = match rule.ports.as_slice() {
        [] => Ok(()),
        ports => first_ok(ports, |port| port_matches(world, port, rule.action, flow)),
    };
    match (peers, ports) {
        (Ok(()), Ok(())) => Ok(()),
        (peers, ports) => {
            Err(Mismatch { no_peers: rule.peers == Peers::Of(Vec::new()), peers: failed(peers), ports: failed(ports) })
        }
    }
}

/// `Ok` if one alternative matches, else why each does not.
fn first_ok<T, E>(alternatives: &[T], matches: impl Fn(&T) -> Result<(), E>) -> Result<(), Vec<E>> {
    let mut failed = Vec::new();
    for alternative in alternatives {
        match matches(alternative) {
            Ok(()) => return Ok(()),
            Err(e) => failed.push(e),
        }
    }
    Err(failed)
}

fn failed<E>(result: Result<(), Vec<E>>) -> Vec<E> {
    result.err().unwrap_or_default()
}

/// Whether the address is the peer. A selector of pods matches the pod that owns the address; a block matches any
/// address in it, a pod's as well; a selector of nodes matches what Node objects tell of their addresses.
pub fn peer_matches(world: &World, policy: &PolicySpec, peer: &Peer, address: IpAddr) -> Result<(), PeerMismatch> {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let pod = owner(world, address).ok_or(PeerMismatch::NoPod { address })?;
            pod_matches(world, pod, &policy.key.namespace, namespaces, pods)
                .map_err(|conditions| PeerMismatch::Pod { pod: format!("{}/{}", pod.namespace, pod.name), conditions })
        }
        Peer::Block(block) if !block.cidr.contains(&address) => {
            Err(PeerMismatch::OutsideBlock { address, cidr: block.cidr })
        }
        Peer::Block(block) => match block.except.iter().find(|e| e.contains(&address)) {
            Some(except) => Err(PeerMismatch::InExcept { address, cidr: block.cidr, except: *except }),
            None => Ok(()),
        },
        Peer::Nodes(selector) => node_matches(world, selector, address),
    }
}

/// Whether the address is told by the object of a node with these labels, and no live pod owns it.
fn node_matches(world: &World, selector: &LabelSelector, address: IpAddr) -> Result<(), PeerMismatch> {
    let owned = owner(world, address).is_some();
    let mut nodes = world.nodes.values().filter(|node| !owned && node.addresses.contains(&address));
    let first = nodes.next().ok_or(PeerMismatch::NoNode { address })?;
    let conditions = label_mismatches(selector, &first.labels);
    if conditions.is_empty() || nodes.any(|node| selector.matches(&node.labels)) {
        return Ok(());
    }
    Err(PeerMismatch::Node { node: first.name.clone(), conditions })
}

/// Whether the flow's protocol and destination port are these. A name is looked up on the destination pod, whichever
/// the direction. Of a flow that does not show its port, only a Deny assumes the worst; Accept and Pass have to be
/// about every port of the protocol.
pub fn port_matches(world: &World, port: &PortMatch, action: Action, flow: &Flow) -> Result<(), PortMismatch> {
    let wanted = match port {
        PortMatch::Range { protocol, .. } | PortMatch::Named { protocol, .. } => *protocol,
    };
    if flow.protocol != wanted.number() {
        return Err(match protocol::has_ports(flow.protocol) {
            true => PortMismatch::Protocol { wanted, found: flow.protocol },
            false => PortMismatch::NoPorts { wanted, found: flow.protocol },
        });
    }
    match (port, flow.port) {
        (PortMatch::Range { first: 0, last: u16::MAX, .. }, _) => Ok(()),
        (PortMatch::Range { first, last, .. }, Some(found)) => match (*first..=*last).contains(&found) {
            true => Ok(()),
            false => Err(PortMismatch::Number { first: *first, last: *last, found }),
        },
        (PortMatch::Range { .. }, None) if action == Action::Deny => Ok(()),
        (PortMatch::Range { .. }, None) => Err(PortMismatch::NotShown),
        (PortMatch::Named { protocol, name }, found) => named_port(world, *protocol, name, found, action, flow),
    }
}

fn named_port(
    world: &World,
    protocol: Protocol,
    name: &str,
    found: Option<u16>,
    action: Action,
    flow: &Flow,
) -> Result<(), PortMismatch> {
    let Some(pod) = owner(world, flow.destination) else {
        return Err(PortMismatch::NameWithoutPod { name: name.to_owned(), destination: flow.destination });
    };
    let ports = pod.ports.iter().filter(|p| p.name == name && p.protocol == protocol);
    let numbers: Vec<u16> = ports.map(|p| p.number).collect();
    if numbers.is_empty() {
        let pod = format!("{}/{}", pod.namespace, pod.name);
        return Err(PortMismatch::NoSuchName { name: name.to_owned(), protocol, pod });
    }
    match found {
        Some(found) if numbers.contains(&found) => Ok(()),
        Some(found) => Err(PortMismatch::NamedNumber { name: name.to_owned(), numbers, found }),
        None if action == Action::Deny => Ok(()),
        None => Err(PortMismatch::NotShown),
    }
}
