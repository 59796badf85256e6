//! The ends of a flow: which addresses `namespace/pod` or an IP address stands for. Shared by `podgate test` and
//! `podgate explain`; verdicts are no matter of this file.
//!
//! - An IP address stands for itself: the engine knows whether it is a live pod's or a node's.
//! - A pod stands for those of its addresses (`status.podIPs`, in their order) that it really owns.
//! - A hostNetwork pod stands for its node's addresses: its own `podIPs`, then `hostIPs`, then those of the Node object.
//! - Two pods meet in the first family, by the order of the *source's* `podIPs`, that both have: it is the source that
//!   opens the connection. A family that a hostNetwork pod has from its node alone comes last. A pod and an IP address
//!   meet in the address' family.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_api::{Phase, Pod};
use podgate_policy::{Index, World};
use thiserror::Error;

use crate::question::Family;

/// Looks ends up.
#[derive(Debug)]
pub(crate) struct Parties<'w> {
    world: &'w World,
    index: &'w Index,
    /// By `namespace/name`.
    pods: HashMap<String, &'w Pod>,
}

/// Why a flow's ends cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum EndError {
    #[error("`{0}` is neither namespace/pod nor an IP address")]
    Shape(String),
    #[error("`{0}` is an address block; a flow's end is one address")]
    Block(String),
    #[error("there is no pod {pod} in the manifests{hint}")]
    NoSuchPod { pod: String, hint: String },
    #[error("pod {0} has finished (phase Succeeded or Failed): it has no address any more")]
    Finished(String),
    #[error("pod {0} has no address: its manifest needs status.podIP (or status.podIPs)")]
    NoAddress(String),
    #[error("hostNetwork pod {0} has its node's address, and the manifests do not tell one: {1}")]
    NoNodeAddress(String, &'static str),
    #[error("pod {pod} does not have its address {address} any more: the newer pod {owner} has it")]
    Superseded { pod: String, address: IpAddr, owner: String },
    #[error("{end} has no {} address (it has {})", .family.as_str(), list(.has))]
    NotOfFamily { end: String, family: Family, has: Vec<IpAddr> },
    #[error("{from} and {to} have no address family in common ({} and {})", list(&.has.0), list(&.has.1))]
    NoCommonFamily { from: String, to: String, has: Box<(Vec<IpAddr>, Vec<IpAddr>)> },
}

impl<'w> Parties<'w> {
    /// Of this world, which the index must have been given whole.
    pub(crate) fn new(world: &'w World, index: &'w Index) -> Self {
        let pods = world.pods.iter().map(|((namespace, name), pod)| (format!("{namespace}/{name}"), pod)).collect();
        Parties { world, index, pods }
    }

    /// The addresses between which the flow is judged.
    pub(crate) fn pair(&self, from: &str, to: &str, family: Option<Family>) -> Result<(IpAddr, IpAddr), EndError> {
        let sources = self.of_family(from, family)?;
        let destinations = self.of_family(to, family)?;
        let pairs = || {
            let alike = |source: IpAddr| destinations.iter().filter(move |d| d.is_ipv4() == source.is_ipv4());
            sources.iter().flat_map(move |source| alike(*source).map(|destination| (*source, *destination)))
        };
        let own = pairs().find(|(source, destination)| self.is_own(from, *source) && self.is_own(to, *destination));
        if let Some(pair) = own.or_else(|| pairs().next()) {
            return Ok(pair);
        }
        Err(EndError::NoCommonFamily {
            from: from.to_owned(),
            to: to.to_owned(),
            has: Box::new((sources, destinations)),
        })
    }

    fn of_family(&self, end: &str, family: Option<Family>) -> Result<Vec<IpAddr>, EndError> {
        let addresses = self.addresses(end)?;
        let Some(family) = family else { return Ok(addresses) };
        let mut fitting = addresses.clone();
        fitting.retain(|a| Family::of(*a) == family);
        match fitting.is_empty() {
            true => Err(EndError::NotOfFamily { end: end.to_owned(), family, has: addresses }),
            false => Ok(fitting),
        }
    }

    /// What an end stands for, in order of preference; never empty.
    fn addresses(&self, end: &str) -> Result<Vec<IpAddr>, EndError> {
        if let Some(pod) = self.pods.get(end) {
            return self.pod_addresses(end, pod);
        }
        if let Ok(address) = end.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        if end.parse::<IpNet>().is_ok() {
            return Err(EndError::Block(end.to_owned()));
        }
        match end.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Err(EndError::NoSuchPod { pod: end.to_owned(), hint: self.hint(namespace) })
            }
            _ => Err(EndError::Shape(end.to_owned())),
        }
    }

    fn pod_addresses(&self, end: &str, pod: &Pod) -> Result<Vec<IpAddr>, EndError> {
        if pod.phase == Phase::Finished {
            return Err(EndError::Finished(end.to_owned()));
        }
        if pod.host_network {
            return self.node_addresses(end, pod);
        }
        let mut superseded = None;
        let mut addresses = Vec::with_capacity(pod.addresses.len());
        for address in &pod.addresses {
            match self.index.pod_at(*address) {
                Some(owner) if owner != end => superseded = Some((*address, owner)),
                _ => addresses.push(*address),
            }
        }
        match superseded {
            _ if !addresses.is_empty() => Ok(addresses),
            Some((address, owner)) => Err(EndError::Superseded { pod: end.to_owned(), address, owner }),
            None => Err(EndError::NoAddress(end.to_owned())),
        }
    }

    fn node_addresses(&self, end: &str, pod: &Pod) -> Result<Vec<IpAddr>, EndError> {
        let node = pod.node.as_ref().and_then(|name| self.world.nodes.get(name));
        let known = [&pod.addresses, &pod.host_addresses].into_iter().chain(node.map(|n| &n.addresses));
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in known.flatten() {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        match addresses.is_empty() {
            false => Ok(addresses),
            true => Err(EndError::NoNodeAddress(
                end.to_owned(),
                match pod.node {
                    Some(_) => "give the pod a status.hostIP, or its Node",
                    None => "give the pod a spec.nodeName and a status.hostIP",
                },
            )),
        }
    }

    /// Whether an end has the address by itself: not a hostNetwork pod that has it only because its node does.
    fn is_own(&self, end: &str, address: IpAddr) -> bool {
        self.pods.get(end).is_none_or(|pod| !pod.host_network || pod.addresses.contains(&address))
    }

    /// The pods that a wrong name may have meant.
    fn hint(&self, namespace: &str) -> String {
        let from = (namespace.to_owned(), String::new());
        let there = self.world.pods.range(from..).take_while(|((n, _), _)| n == namespace);
        let names: Vec<&str> = there.map(|((_, name), _)| name.as_str()).take(6).collect();
        match names.len() {
            0 => format!(" (and none in namespace {namespace})"),
            1..6 => format!(" (namespace {namespace} has {})", names.join(", ")),
            _ => format!(" (namespace {namespace} has {}, ...)", names[..5].join(", ")),
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
