//! Sources of [`Change`](podgate_api::Change): a manifest directory now, the Kubernetes API later.
#![forbid(unsafe_code)]

pub mod manifests;
mod source;

pub use source::{Event, FreshState, Freshness, Problem};
