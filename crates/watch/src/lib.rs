//! Sources of [`Change`](podgate_api::Change): the Kubernetes API, and a manifest directory.
#![forbid(unsafe_code)]

pub mod kube;
pub mod manifests;
pub mod saved;
mod source;

pub use source::{Event, FreshState, Freshness, Problem, Since};
