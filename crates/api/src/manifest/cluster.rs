//! Namespaces and Nodes.

use serde::Deserialize;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::meta;
use super::path::Path;
use super::report::Report;
use super::tree::Node as Tree;
use super::validate;
use crate::{Labels, Namespace, Node};

/// The annotation of the beta era that isolates a namespace.
const ISOLATION: &str = "net.beta.kubernetes.io/network-policy";
/// The label that every namespace has.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Reads a Namespace. One that is broken but isolated, or isolated as far as can be understood, comes back beside
/// the complaints (fail closed); any other broken one does not come back.
pub(super) fn namespace(object: &Tree<'_>, header: &Header, report: &mut Report) -> Option<Namespace> {
    let metadata = meta::read(object, header, report);
    let isolated = isolation(object, report);
    (report.is_clean() || isolated).then(|| named(header, metadata.map(|m| m.labels).unwrap_or_default(), isolated))
}

fn named(header: &Header, mut labels: Labels, ingress_default_deny: bool) -> Namespace {
    let name = header.key.name.clone();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    Namespace { name, labels, ingress_default_deny }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkPolicyAnnotation {
    ingress: Option<IngressIsolation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressIsolation {
    isolation: Option<String>,
}

/// Whether the annotation isolates; one that can't be understood does.
fn isolation(object: &Tree<'_>, report: &mut Report) -> bool {
    let metadata = Path::Root.key("metadata");
    let annotations = metadata.key("annotations");
    let path = annotations.key(ISOLATION);
    let Some(annotation) = object.get("metadata").and_then(|m| m.get("annotations")?.get(ISOLATION)) else {
        return false;
    };
    const EXPECTED: &str =
        r#"should be '{"ingress":{"isolation":"DefaultDeny"}}'; until it is, the namespace counts as isolated"#;
    let text = match annotation.scalar() {
        Some(scalar) => &*scalar.text,
        None if annotation.is_null() => "",
        None => {
            let message = format!("must be a string that holds JSON, but is {}; it {EXPECTED}", annotation.what());
            report.at(object, &path, message);
            return true;
        }
    };
    match serde_json::from_str::<NetworkPolicyAnnotation>(text) {
        Ok(annotation) => match annotation.ingress.and_then(|ingress| ingress.isolation).as_deref() {
            None => false,
            Some("DefaultDeny") => true,
            Some(other) => {
                report.at(object, &path, format!("{other:?} is no known isolation; it {EXPECTED}"));
                true
            }
        },
        Err(error) => {
            report.at(object, &path, format!("its JSON can't be understood ({error}); it {EXPECTED}"));
            true
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<NodeAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

/// Reads a Node. What is wrong goes to the report; the result counts only if that stays clean.
pub(super) fn node(object: &Tree<'_>, header: &Header, report: &mut Report) -> Option<Node> {
    let metadata = meta::read(object, header, report);
    let spec: Option<NodeSpec> = decode::field(object, "spec", Unknown::Ignore, report);
    let status: Option<NodeStatus> = decode::field(object, "status", Unknown::Ignore, report);
    let (metadata, spec, status) = (metadata?, spec?, status?);

    let spec_path = Path::Root.key("spec");
    let several = spec_path.key("podCIDRs");
    let mut pod_cidrs = Vec::new();
    let mut block = |path: &Path<'_>, text: &str| match validate::cidr(text) {
        Ok(block) if pod_cidrs.contains(&block) => {}
        Ok(block) => pod_cidrs.push(block),
        Err(message) => report.at(object, path, message),
    };
    for (i, text) in spec.pod_cidrs.iter().enumerate() {
        block(&several.index(i), text);
    }
    if !spec.pod_cidr.is_empty() {
        block(&spec_path.key("podCIDR"), &spec.pod_cidr);
    }

    let status_path = Path::Root.key("status");
    let list = status_path.key("addresses");
    let mut addresses = Vec::new();
    for (i, entry) in status.addresses.iter().enumerate() {
        match (validate::address(&entry.address), entry.r#type.as_str()) {
            (Ok(address), _) if addresses.contains(&address) => {}
            (Ok(address), _) => addresses.push(address),
            (Err(message), "InternalIP" | "ExternalIP") => report.at(object, &list.index(i).key("address"), message),
            (Err(_), _) => {}
        }
    }
    Some(Node { name: header.key.name.clone(), labels: metadata.labels, addresses, pod_cidrs })
}
