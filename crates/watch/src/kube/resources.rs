//! The table of what is watched. A kind more is a line more here.

use std::fmt;

use podgate_api::Kind;

/// One resource of the API server that podgate follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// The API group; empty for the core group.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) presence: Presence,
}

/// What it means that the API server does not have the resource, or does not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Every API server has it, and nothing is right without it.
    Needed,
    /// Every API server has it; without permission to read it podgate goes on without.
    Wanted,
    /// It is there where its CustomResourceDefinition is; then it is needed.
    Installed,
}

const POLICY_GROUP: &str = "policy.networking.k8s.io";

/// Everything that is followed. Those that are small and that others refer to stand first.
pub(super) static RESOURCES: [Resource; 7] = [
    Resource::of(Kind::Namespace, "", "v1", "namespaces", Presence::Needed),
    Resource::of(Kind::Node, "", "v1", "nodes", Presence::Wanted),
    Resource::of(Kind::NetworkPolicy, "networking.k8s.io", "v1", "networkpolicies", Presence::Needed),
    Resource::of(Kind::ClusterNetworkPolicy, POLICY_GROUP, "v1alpha2", "clusternetworkpolicies", Presence::Installed),
    Resource::of(Kind::AdminNetworkPolicy, POLICY_GROUP, "v1alpha1", "adminnetworkpolicies", Presence::Installed),
    Resource::of(
        Kind::BaselineAdminNetworkPolicy,
        POLICY_GROUP,
        "v1alpha1",
        "baselineadminnetworkpolicies",
        Presence::Installed,
    ),
    Resource::of(Kind::Pod, "", "v1", "pods", Presence::Needed),
];

/// Whether a CustomResourceDefinition, by its name (`plural.group`), is of a resource that is followed.
pub(super) fn is_installed_by(definition: &str) -> bool {
    RESOURCES.iter().any(|resource| resource.presence == Presence::Installed && resource.to_string() == definition)
}

impl Resource {
    const fn of(
        kind: Kind,
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        presence: Presence,
    ) -> Resource {
        Resource { kind, group, version, plural, presence }
    }

    /// `v1`, `networking.k8s.io/v1`.
    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path of its group and version on the API server, which tells what there is in it.
    pub(super) fn group_path(&self) -> String {
        match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// The path of its objects, of all namespaces, on the API server.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.group_path(), self.plural)
    }

    /// Whether its objects are policies.
    pub(super) fn is_policy(&self) -> bool {
        !matches!(self.kind, Kind::Pod | Kind::Namespace | Kind::Node)
    }
}

/// As `kubectl` names it: `pods`, `networkpolicies.networking.k8s.io`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        match self.group {
            "" => Ok(()),
            group => write!(f, ".{group}"),
        }
    }
}
