//! [`Index`]: the world as the compiler needs it, and [`Index::build`].

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_api::{Change, ObjectKey};
use podgate_engine::{Direction, Snapshot};

/// Which pods are subjects of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locality {
    /// All of them (`podgate test`, `explain`, and an agent that was given no node's name).
    All,
    /// Those with this `spec.nodeName`.
    Node(String),
}

/// What the kernel has to know of one local pod address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exposure {
    /// Some policy is about its ingress: packets to it must be judged.
    pub ingress: bool,
    /// Some policy is about its egress: packets from it must be judged.
    pub egress: bool,
}

/// A compiled state of the world, and what differs for the kernel from the build before.
#[derive(Debug, Clone)]
pub struct Build {
    /// The tables.
    pub snapshot: Arc<Snapshot>,
    /// Local pod addresses whose exposure is new or another than in the build before; `None`: no live local pod has
    /// the address any more. An address that gets less exposed may join a known-open set only after the snapshot is
    /// in use; one that gets more exposed must have left it before.
    pub exposure: Vec<(IpAddr, Option<Exposure>)>,
    /// The pod ranges of the node (`Locality::All`: of all nodes), sorted; `None` where nothing changed.
    pub pod_ranges: Option<Vec<IpNet>>,
    /// Established connections of these local addresses may have lost their permission. (An over-estimate is fine.)
    pub touched: Vec<IpAddr>,
    /// Some cluster-tier rule is about egress of a local pod, so that traffic to its own node must be judged as well.
    pub judge_input: bool,
}

/// Something in the world that is valid but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object it is about.
    pub object: ObjectKey,
    /// What it is and what to do about it.
    pub message: String,
}

/// The world, indexed. Changes mark what depends on them; a build compiles only that.
#[derive(Debug)]
pub struct Index {}

impl Index {
    /// An empty world.
    pub fn new(locality: Locality) -> Self {
        let _ = locality;
        todo!()
    }

    /// Takes one change in. Order among changes of different objects does not matter to the outcome.
    pub fn apply(&mut self, change: Change) {
        let _ = change;
        todo!()
    }

    /// The address' link or route on this node went away: whoever had it has it no more, until a pod is applied anew.
    pub fn forget_address(&mut self, address: IpAddr) {
        let _ = address;
        todo!()
    }

    /// Compiles what changed since the last build. The generation grows by one.
    pub fn build(&mut self) -> Build {
        todo!()
    }

    /// What is valid but hardly meant, sorted.
    pub fn warnings(&self) -> Vec<Warning> {
        todo!()
    }

    /// The name (`namespace/name`) of the pod that has the address, if one has.
    pub fn pod_at(&self, address: IpAddr) -> Option<String> {
        let _ = (address, Direction::Ingress);
        todo!()
    }
}
