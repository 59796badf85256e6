//! A cluster as an agent has it: indexed and compiled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_api::Change;
use podgate_engine::Snapshot;
use podgate_policy::{Index, Locality};

use crate::flows::Scope;
use crate::world::{Cluster, local_node};

/// What every cluster and all flows follow from.
pub const SEED: u64 = 20_240_601;

/// Indexes and compiles a cluster with so many policies; last: how long that took.
pub fn compiled(policies: usize, scope: Scope) -> (Index, Arc<Snapshot>, Duration) {
    let mut index = Index::new(match scope {
        Scope::Node => Locality::Node(local_node()),
        Scope::All => Locality::All,
    });
    let objects: Vec<_> = Cluster { policies, seed: SEED }.objects().collect();
    let start = Instant::now();
    objects.into_iter().for_each(|object| index.apply(Change::Apply(object)));
    let snapshot = index.build().snapshot;
    (index, snapshot, start.elapsed())
}
