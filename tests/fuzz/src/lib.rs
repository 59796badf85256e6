//! The fuzz targets' bodies: each takes bytes and panics if what must hold of them does not.
//!
//! ```text
//!   packet     a packet's bytes ─ parse ─▶ flow ─ engine │ the reference evaluator
//!   world      draws of a generator ─▶ objects, changes, flows ─ engine, built step by step │ the reference evaluator
//!   netlink    a datagram of the kernel ─▶ packets and verdicts, connections, routes, the table's owner
//!   manifest   YAML, JSON ─▶ objects ─▶ index ─ engine │ the reference evaluator
//!   watch      an API server's list and watch ─▶ changes │ the same objects from a manifest
//!   saved      snapshot and journal ─▶ world ─▶ compacted, read again
//! ```
//!
//! `kit`, `generate`, `flows` and `check` are those of the property tests (crates/policy/tests): what draws
//! there from a seed draws here from the fuzzer's bytes. Not here: how the targets are built and run (`../run`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

pub mod draws;
pub mod manifest;
pub mod netlink;
pub mod packet;
pub mod saved;
pub mod watch;
pub mod world;

#[path = "../../../crates/policy/tests/properties/check.rs"]
mod check;
#[path = "../../../crates/policy/tests/properties/flows.rs"]
mod flows;
#[path = "../../../crates/policy/tests/properties/generate.rs"]
mod generate;
#[macro_use]
#[path = "../../../crates/policy/tests/common/mod.rs"]
mod kit;

/// What the property tests' files know as `common`: the kit, with another source of draws.
mod common {
    pub use crate::draws as rng;
    pub use crate::kit::*;
}

/// Cluster policies go by way of their manifests in the property tests; that is `manifest`'s here.
mod text {
    pub fn through_manifest(spec: podgate_api::PolicySpec) -> podgate_api::PolicySpec {
        spec
    }
}
