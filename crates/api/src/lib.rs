//! The policy APIs as plain, validated types: what the other crates know of Kubernetes.
//!
//! ```text
//!   YAML/JSON text ── manifest ──▶ k8s-openapi types ── convert/validate ──▶ Object ──▶ Change
//!                                                                            ├ Pod, Namespace, Node
//!                                                                            └ PolicySpec (every policy kind)
//! ```
//!
//! Here: the types ([`Object`], [`PolicySpec`], [`Change`]), reading them from manifest text with file, line and
//! field in every error, and the validation that the API server would do. Not here: any I/O, any Kubernetes client,
//! and what a policy *means* (that is `podgate-policy`).
#![forbid(unsafe_code)]

mod change;
pub mod manifest;
mod object;
mod selector;
mod spec;

pub use change::{Change, Kind, ObjectKey};
pub use object::{ContainerPort, Namespace, Node, Object, Phase, Pod};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use spec::{
    Action, Direction, IpBlock, NamespaceMatch, Peer, Peers, PolicySpec, PortMatch, Protocol, Rule, Subject, Tier,
};
