//! Pods, Namespaces and Nodes: only the fields that decide verdicts.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::{Kind, Labels, ObjectKey, PolicySpec, Protocol};

/// Any object podgate follows.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A policy of any kind.
    Policy(PolicySpec),
}

impl Object {
    /// The key under which the object is stored.
    pub fn key(&self) -> ObjectKey {
        match self {
            Object::Pod(p) => ObjectKey { kind: Kind::Pod, namespace: p.namespace.clone(), name: p.name.clone() },
            Object::Namespace(n) => ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: n.name.clone() },
            Object::Node(n) => ObjectKey { kind: Kind::Node, namespace: String::new(), name: n.name.clone() },
            Object::Policy(p) => p.key.clone(),
        }
    }
}

/// A pod's place in its life: `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Phase {
    /// Pending, Running or Unknown (also absent): the pod counts.
    #[default]
    Live,
    /// Succeeded or Failed: the pod does not count, and its address may belong to another pod already.
    Finished,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; tells a pod from its successor of the same name.
    pub uid: Option<String>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.creationTimestamp`; of two live pods that claim one address, the newer has it.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp` is set: the pod counts until it is gone.
    pub terminating: bool,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `spec.hostNetwork`: such a pod is neither subject nor selectable peer.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// `status.podIPs` in their order (or `status.podIP` where only that is there).
    pub addresses: Vec<IpAddr>,
    /// `status.hostIPs` (or `status.hostIP`): addresses of the pod's node.
    pub host_addresses: Vec<IpAddr>,
    /// Named container ports, of ordinary containers and of sidecars (init containers with restartPolicy Always).
    pub ports: Vec<ContainerPort>,
}

/// A named port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ContainerPort {
    /// The name.
    pub name: String,
    /// The protocol; TCP where absent.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`, `kubernetes.io/metadata.name` always among them.
    pub labels: Labels,
    /// The annotation `net.beta.kubernetes.io/network-policy` says `{"ingress":{"isolation":"DefaultDeny"}}`.
    pub ingress_default_deny: bool,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The IP addresses among `status.addresses`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs` (or `spec.podCIDR`).
    pub pod_cidrs: Vec<IpNet>,
}
