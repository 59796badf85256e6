//! An object's JSON as the API server sends it, reduced to what podgate reads: a few hundred bytes of each pod, not
//! its containers' images and who changed which field when. What the rest means is left to `podgate_api::manifest`,
//! so that an object from the API server and one from a file can't mean different things.

use std::borrow::Cow;
use std::collections::BTreeMap;

use podgate_api::Kind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::resources::Resource;

/// What tells which object it is, and which state of it.
#[derive(Debug, Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    pub(super) metadata: HeadMeta<'a>,
}

/// See [`Head`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadMeta<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    /// Empty for objects of no namespace.
    #[serde(borrow, default)]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) resource_version: Cow<'a, str>,
}

type Raw<'a> = Option<&'a RawValue>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reduced<'a, T> {
    api_version: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    rest: T,
}

macro_rules! fields {
    ($(#[$attribute:meta])* $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        #[derive(Deserialize, Serialize)]
        #[serde(rename_all = "camelCase")]
        struct $name<'a> {
            $($(#[$field_attribute])* #[serde(borrow, default, skip_serializing_if = "Option::is_none")] $field: Option<$type>,)*
        }
    };
}

fields!(Metadata {
    name: &'a RawValue,
    namespace: &'a RawValue,
    uid: &'a RawValue,
    labels: &'a RawValue,
    creation_timestamp: &'a RawValue,
    deletion_timestamp: &'a RawValue,
    annotations: Annotations<'a>,
});
fields!(
    /// The one annotation that means something for traffic.
    Annotations {
        #[serde(rename = "net.beta.kubernetes.io/network-policy")]
        isolation: &'a RawValue,
    }
);
fields!(Namespace { metadata: Metadata<'a>, });
fields!(Node { metadata: Metadata<'a>, spec: NodeSpec<'a>, status: NodeStatus<'a>, });
fields!(NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: &'a RawValue,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: &'a RawValue,
});
fields!(NodeStatus { addresses: &'a RawValue, });
fields!(Pod { metadata: Metadata<'a>, spec: PodSpec<'a>, status: PodStatus<'a>, });
fields!(PodSpec {
    node_name: &'a RawValue,
    host_network: &'a RawValue,
    containers: Vec<Container<'a>>,
    init_containers: Vec<Container<'a>>,
});
fields!(Container { restart_policy: &'a RawValue, ports: &'a RawValue, });
fields!(PodStatus {
    phase: &'a RawValue,
    #[serde(rename = "podIP")]
    pod_ip: &'a RawValue,
    #[serde(rename = "podIPs")]
    pod_ips: &'a RawValue,
    #[serde(rename = "hostIP")]
    host_ip: &'a RawValue,
    #[serde(rename = "hostIPs")]
    host_ips: &'a RawValue,
});

/// The object as a manifest with the fields that podgate reads, and no others.
///
/// # Errors
/// The text is no JSON, or not even built like such an object.
pub(super) fn reduce(resource: &Resource, text: &str) -> serde_json::Result<String> {
    match resource.kind {
        Kind::Pod => through::<Pod<'_>>(resource, text),
        Kind::Node => through::<Node<'_>>(resource, text),
        Kind::Namespace => through::<Namespace<'_>>(resource, text),
        _ => policy(resource, text),
    }
}

fn through<'a, T: Deserialize<'a> + Serialize>(resource: &Resource, text: &'a str) -> serde_json::Result<String> {
    let rest: T = serde_json::from_str(text)?;
    serde_json::to_string(&Reduced { api_version: &resource.api_version(), kind: resource.kind.as_str(), rest })
}

/// Of a policy everything is kept: a field that podgate does not know must not be passed over. Its metadata are not
/// part of what it says, nor is its status, which controllers write.
fn policy(resource: &Resource, text: &str) -> serde_json::Result<String> {
    #[derive(Deserialize)]
    struct Whole<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);
    #[derive(Serialize)]
    struct Named<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Raw<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Raw<'a>,
    }
    let Whole(mut fields) = serde_json::from_str(text)?;
    let mut metadata = BTreeMap::new();
    if let Some(Metadata { name, namespace, .. }) =
        fields.remove("metadata").map(|metadata| serde_json::from_str(metadata.get())).transpose()?
    {
        metadata.insert("metadata", Named { name, namespace });
    }
    for known in ["apiVersion", "kind", "status"] {
        fields.remove(known);
    }
    #[derive(Serialize)]
    struct Rest<'a> {
        #[serde(flatten)]
        metadata: BTreeMap<&'a str, Named<'a>>,
        #[serde(flatten)]
        fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
    }
    let rest = Rest { metadata, fields };
    serde_json::to_string(&Reduced { api_version: &resource.api_version(), kind: resource.kind.as_str(), rest })
}
