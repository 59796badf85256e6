//! What an explanation consists of. It is printed as text, or as it is here in JSON (`-o json`, keys in camelCase):
//!
//! ```text
//! {"from","to","protocol","port","verdict",                   as asked; port null for ICMP; allow | deny
//!  "source":      Party, "destination": Party,
//!  "egress":      Side (of the source), "ingress": Side (of the destination),
//!  "warnings":    ["…"]}                                       about exactly these ends
//! Party {"kind": pod | hostNetworkPod | node | address, "name", "address", "node", "namespace", "labels",
//!        "namespaceLabels"}                                   what does not apply is null
//! Side  {"verdict", "rule", "cause": open | ownNode | itself | accepted | denied | defaultDeny, "because",
//!        "isolatedBy": [{"policy", "kind", "place"}], "rules": [Rule, nearest first],
//!        "notSelecting": [{"policy", "place", "because"}], "remedies": [{"what", "manifest"}]}
//! Rule  {"rule", "place", "says", "matches", "mismatch": ["…"]}
//! ```

use podgate_api::{Action, Labels};
use serde::Serialize;

/// Why a flow is allowed or denied.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) protocol: &'static str,
    pub(super) port: Option<u16>,
    pub(super) verdict: &'static str,
    pub(super) source: Party,
    pub(super) destination: Party,
    pub(super) egress: Side,
    pub(super) ingress: Side,
    pub(super) warnings: Vec<String>,
}

/// Who an end of the flow is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Party {
    pub(super) kind: PartyKind,
    /// `namespace/name` of a pod, the name(s) of a node, or the address.
    pub(super) name: String,
    /// The address that is judged.
    pub(super) address: String,
    /// The pod's node.
    pub(super) node: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) labels: Option<Labels>,
    pub(super) namespace_labels: Option<Labels>,
}

/// What kind of end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PartyKind {
    Pod,
    /// Asked about by its name; for policies it is its node.
    HostNetworkPod,
    Node,
    /// No pod of the manifests and no node has it.
    Address,
}

/// One direction, seen from the end whose policies decide it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) verdict: &'static str,
    /// The name of the rule that decided, if one did.
    pub(super) rule: Option<String>,
    pub(super) cause: CauseWord,
    /// The cause as a sentence.
    pub(super) because: String,
    /// What isolates the subject in this direction.
    pub(super) isolated_by: Vec<Isolation>,
    /// Every rule that has a say, those that match first, then by how little fails.
    pub(super) rules: Vec<RuleReport>,
    /// Policies of the subject's namespace about this direction that do not select it.
    pub(super) not_selecting: Vec<NotSelecting>,
    /// What would allow a denied flow, where that is simple; each was tried.
    pub(super) remedies: Vec<Remedy>,
}

/// The cause of a side's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum CauseWord {
    Open,
    OwnNode,
    Itself,
    Accepted,
    Denied,
    DefaultDeny,
}

/// A policy, or a namespace's annotation, that isolates.
#[derive(Debug, Serialize)]
pub(super) struct Isolation {
    /// `namespace/name`; of an annotation the namespace.
    pub(super) policy: String,
    /// `NetworkPolicy`, or `Namespace` for the annotation.
    pub(super) kind: &'static str,
    /// `file:line`.
    pub(super) place: Option<String>,
}

/// A rule and why it does not match.
#[derive(Debug, Serialize)]
pub(super) struct RuleReport {
    pub(super) rule: String,
    pub(super) place: Option<String>,
    /// The rule in words.
    pub(super) says: String,
    pub(super) matches: bool,
    /// What fails, by the manifest's fields: `from[0]: …`, `ports[1]: …`. One peer and one port have to match.
    pub(super) mismatch: Vec<String>,
    /// How many conditions fail at the least; 0 if it matches.
    #[serde(skip)]
    pub(super) distance: usize,
    /// What it does; the words say it too.
    #[serde(skip)]
    pub(super) action: Action,
}

/// A policy that could be meant for the subject, but does not select it.
#[derive(Debug, Serialize)]
pub(super) struct NotSelecting {
    pub(super) policy: String,
    pub(super) place: Option<String>,
    pub(super) because: String,
}

/// A change that would allow the flow in this direction.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Remedy {
    pub(super) what: String,
    /// A manifest, or the part of one, to go with it.
    pub(super) manifest: Option<String>,
}
