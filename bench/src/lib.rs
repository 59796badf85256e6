//! What the benchmarks share.
//!
//! ```text
//!   rng ──▶ world   a cluster of 100,000 pods with any number of policies, the same for the same seed
//!       └─▶ flows   a million connections and packets of that cluster
//!   compiled        that cluster as an agent has it
//!   stats           medians, and ratios with a confidence interval
//! ```
//!
//! Not here: what is measured (`benches/verdict.rs`, `src/bin/`).
#![forbid(unsafe_code)]

pub mod compiled;
pub mod flows;
pub mod machine;
pub mod rng;
pub mod stats;
pub mod world;
