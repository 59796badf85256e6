//! Whose an address is: the pod that owns it, the node it stands for. Nothing about policies here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_api::{Direction, Labels, Phase, Pod};

use super::Flow;
use crate::World;

/// Whether the pod has addresses of its own: not finished, and not on its node's network.
pub fn is_live(pod: &Pod) -> bool {
    pod.phase == Phase::Live && !pod.host_network
}

/// The pod that owns the address: of the live pods that claim it the newest; among equals one that is not
/// terminating; then the greater (namespace, name), so that the order of arrival never matters.
pub fn owner(world: &World, address: IpAddr) -> Option<&Pod> {
    world
        .pods
        .values()
        .filter(|pod| is_live(pod) && pod.addresses.contains(&address))
        .max_by_key(|pod| (pod.created, !pod.terminating, &pod.namespace, &pod.name))
}

/// The pod whose policies decide this direction of the flow, if that end is one.
pub fn subject<'w>(world: &'w World, flow: &Flow, direction: Direction) -> Option<&'w Pod> {
    owner(world, flow.subject_end(direction))
}

/// Every address of the node by that name: of its Node object, the host addresses of pods on it, and the addresses
/// of hostNetwork pods on it. Finished pods do not count. Some of them may be owned by a live pod all the same.
pub fn node_addresses(world: &World, node: &str) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = world.nodes.get(node).into_iter().flat_map(|n| n.addresses.clone()).collect();
    for pod in world.pods.values().filter(|p| p.node.as_deref() == Some(node) && p.phase == Phase::Live) {
        addresses.extend(&pod.host_addresses);
        if pod.host_network {
            addresses.extend(&pod.addresses);
        }
    }
    addresses
}

/// The names of the nodes that have the address; none where a live pod owns it.
pub fn nodes_at(world: &World, address: IpAddr) -> Vec<&str> {
    if owner(world, address).is_some() {
        return Vec::new();
    }
    let named = world.nodes.keys().chain(world.pods.values().filter_map(|p| p.node.as_ref()));
    let names: BTreeSet<&str> = named.map(String::as_str).collect();
    names.into_iter().filter(|name| node_addresses(world, name).contains(&address)).collect()
}

/// Whether the address is the pod's own node (the one of its `spec.nodeName`).
pub fn is_own_node(world: &World, pod: &Pod, address: IpAddr) -> bool {
    let Some(node) = &pod.node else { return false };
    owner(world, address).is_none() && node_addresses(world, node).contains(&address)
}

/// The namespace's labels. One without an object (files often have none) is there with the label that every
/// namespace has.
pub fn namespace_labels<'w>(world: &'w World, namespace: &str) -> Cow<'w, Labels> {
    match world.namespaces.get(namespace) {
        Some(n) => Cow::Borrowed(&n.labels),
        None => Cow::Owned(Labels::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())])),
    }
}
