//! `metadata`: what every followed object has in common.

use serde::Deserialize;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::path::Path;
use super::report::Report;
use super::tree::Node;
use super::validate;
use crate::{Kind, Labels};

/// The fields of `metadata` that matter, of objects whose other fields do not.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) uid: Option<String>,
    pub(super) labels: Labels,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
    // Read by the header and by `cluster`; here only their types are checked.
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "namespace")]
    _namespace: String,
    #[serde(rename = "annotations")]
    _annotations: Option<AnyMap>,
}

/// A mapping whose contents are read elsewhere; here only that it is one.
#[derive(Debug, Deserialize)]
struct AnyMap {}

/// Reads `metadata`, and checks it with [`check`].
pub(super) fn read(object: &Node<'_>, header: &Header, report: &mut Report) -> Option<Metadata> {
    let metadata: Metadata = decode::field(object, "metadata", Unknown::Ignore, report)?;
    check(object, header, &metadata.labels, report);
    Some(metadata)
}

/// Checks name, namespace and labels.
pub(super) fn check(object: &Node<'_>, header: &Header, labels: &Labels, report: &mut Report) {
    let metadata = Path::Root.key("metadata");
    let name = match header.key.kind {
        Kind::Namespace => validate::dns_label(&header.key.name),
        _ => validate::dns_subdomain(&header.key.name),
    };
    name.unwrap_or_else(|message| report.at(object, &metadata.key("name"), message));
    if header.key.kind.is_namespaced() {
        validate::dns_label(&header.key.namespace)
            .unwrap_or_else(|message| report.at(object, &metadata.key("namespace"), message));
    }
    let path = metadata.key("labels");
    for (key, value) in labels {
        for each in [validate::label_key(key), validate::label_value(value)] {
            each.unwrap_or_else(|message| report.at(object, &path.key(key), message));
        }
    }
}
