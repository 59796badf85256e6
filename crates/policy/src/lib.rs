//! What policies mean: from the world's objects to compiled snapshots, incrementally.
//!
//! ```text
//!   Change ──▶ Index ── build ──▶ Build { Arc<Snapshot>, exposure changes }      the product
//!   Change ──▶ World ── reference::judge ──▶ Judgement by rule name              the naive oracle, and explain
//! ```
//!
//! Here: the [`Index`] (identities, address classes, dirty subjects), the compiler into `podgate-engine` tables, the
//! [`World`] of plain objects, the [`mod@reference`] evaluator written straight from the API text. Not here: any I/O,
//! the packet path, and reading manifests.
#![forbid(unsafe_code)]

mod index;
pub mod reference;
mod world;

pub use index::{Build, Counts, Exposure, Index, Locality, Warning};
pub use world::World;
