//! What a policy means, a test by name for every documented corner; each verdict and deciding rule, written by hand, is
//! asked of the compiled tables and of the naive reference. What only packets can show (replies, NAT, reassembly, the
//! time until a change is enforced) is tested where packets are.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, unreachable_pub)] // a test may; and nothing reaches into a test binary

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod cluster;
mod cluster_manifests;
mod cluster_tiers;
mod fail_closed;
mod ip_blocks;
mod legacy;
mod mismatches;
mod own_node;
mod peers;
mod policy_types;
mod ports;
mod rule_numbers;
mod touched;
mod walkthrough;
