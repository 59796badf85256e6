//! Which kind an object is of, what its key is, and who reads it; `List`s are taken apart here.

use super::document::Document;
use super::path::Path;
use super::report::{Issue, Report};
use super::tree::{Node, Value};
use super::{Located, ManifestError, Parsed, cluster, legacy, pod, policy, tiers};
use crate::{Kind, Object, ObjectKey};

/// Collects what the documents of one file say.
pub(super) struct Reader<'f> {
    file: &'f str,
    pub(super) parsed: Parsed,
}

/// What is known of an object before its fields are read.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) key: ObjectKey,
}

/// The two fields that tell what an object is.
#[derive(Debug, Clone, Copy)]
struct TypeMeta<'t> {
    api_version: &'t str,
    kind: &'t str,
}

/// What podgate does with an object of some type.
enum Concern {
    /// It is read.
    Followed(Kind),
    /// It has nothing to do with network policy.
    None,
    /// It means to restrict traffic, but would not: the person must know. The kind is that of a policy that it could
    /// be meant to be.
    Refused(String, Option<Kind>),
    /// As [`Concern::Refused`], of something that podgate would follow by its right kind.
    Misspelt(String, Option<Kind>),
}

fn concern(meta: TypeMeta<'_>) -> Concern {
    let group = meta.api_version.split_once('/').map_or("", |(group, _)| group);
    match (meta.api_version, meta.kind) {
        ("v1", "Pod") => Concern::Followed(Kind::Pod),
        ("v1", "Namespace") => Concern::Followed(Kind::Namespace),
        ("v1", "Node") => Concern::Followed(Kind::Node),
        ("networking.k8s.io/v1", "NetworkPolicy") => Concern::Followed(Kind::NetworkPolicy),
        ("extensions/v1beta1", "NetworkPolicy") => Concern::Followed(Kind::LegacyNetworkPolicy),
        (V1ALPHA2, "ClusterNetworkPolicy") => Concern::Followed(Kind::ClusterNetworkPolicy),
        (V1ALPHA1, "AdminNetworkPolicy") => Concern::Followed(Kind::AdminNetworkPolicy),
        (V1ALPHA1, "BaselineAdminNetworkPolicy") => Concern::Followed(Kind::BaselineAdminNetworkPolicy),
        (version, kind @ ("Pod" | "Namespace" | "Node")) if group.is_empty() => {
            Concern::Refused(format!("{version:?} is no apiVersion of a {kind}; use v1"), None)
        }
        // Other projects have policies of the same names.
        (version, kind @ "ClusterNetworkPolicy") => Concern::Refused(not_enforced(kind, version, V1ALPHA2), None),
        (version, kind @ ("AdminNetworkPolicy" | "BaselineAdminNetworkPolicy")) => {
            Concern::Refused(not_enforced(kind, version, V1ALPHA1), None)
        }
        (version, "NetworkPolicy") => {
            let kind = match group {
                "networking.k8s.io" | "" => Some(Kind::NetworkPolicy),
                "extensions" => Some(Kind::LegacyNetworkPolicy),
                // Another project's policy, of the same name perhaps as one of ours.
                _ => None,
            };
            let message = format!(
                "podgate does not enforce a NetworkPolicy of apiVersion {version:?}; use networking.k8s.io/v1 (or, \
                 with the annotation on its namespace, extensions/v1beta1)"
            );
            Concern::Refused(message, kind)
        }
        (version, kind) => misspelt(version, kind, group).unwrap_or(Concern::None),
    }
}

const V1ALPHA1: &str = "policy.networking.k8s.io/v1alpha1";
const V1ALPHA2: &str = "policy.networking.k8s.io/v1alpha2";

fn not_enforced(kind: &str, version: &str, ours: &str) -> String {
    format!("podgate does not enforce a {kind} of apiVersion {version:?}; use {ours}")
}

/// What else there is, or was, in the group `networking.k8s.io`.
const NETWORKING: [&str; 5] = ["ClusterCIDR", "IPAddress", "Ingress", "IngressClass", "ServiceCIDR"];

/// A kind that is meant to be one of ours: the API server has none by its name, and passing it over would leave a pod
/// or a policy out.
fn misspelt(version: &str, kind: &str, group: &str) -> Option<Concern> {
    let ours = match group {
        "networking.k8s.io" if kind == "NetworkPolicyList" => return None,
        "policy.networking.k8s.io" => return misspelt_tier(version, kind),
        "" => ["Pod", "Namespace", "Node", "List"].into_iter().find(|ours| kind.eq_ignore_ascii_case(ours))?,
        "networking.k8s.io" if !NETWORKING.contains(&kind.strip_suffix("List").unwrap_or(kind)) => "NetworkPolicy",
        _ if kind.eq_ignore_ascii_case("NetworkPolicy") => "NetworkPolicy",
        _ => return None,
    };
    let policy = match (group, kind.eq_ignore_ascii_case(ours)) {
        ("networking.k8s.io", true) => Some(Kind::NetworkPolicy),
        ("extensions", true) => Some(Kind::LegacyNetworkPolicy),
        _ => None,
    };
    Some(Concern::Misspelt(format!("{version} has no kind {kind:?}; it may have to be {ours}"), policy))
}

/// A kind of the group of the cluster tiers that is none of them (nor a list of them).
fn misspelt_tier(version: &str, kind: &str) -> Option<Concern> {
    let kinds: &[&str] = match version {
        V1ALPHA1 => &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"],
        V1ALPHA2 => &["ClusterNetworkPolicy"],
        _ => &["ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"],
    };
    if kind.strip_suffix("List").is_some_and(|kind| kinds.contains(&kind)) {
        return None;
    }
    let ours = kinds.join(" or ");
    Some(Concern::Misspelt(format!("{version} has no kind {kind:?}; it may have to be {ours}"), None))
}

impl<'f> Reader<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Self { file, parsed: Parsed::default() }
    }

    fn errors(&mut self, issues: impl IntoIterator<Item = Issue>, object: Option<&ObjectKey>) {
        self.parsed.errors.extend(issues.into_iter().map(|issue| ManifestError {
            file: self.file.to_owned(),
            line: issue.line as usize,
            field: issue.field,
            message: issue.message,
            object: object.cloned(),
        }));
    }

    fn error(&mut self, line: u32, field: &str, message: impl Into<String>, object: Option<&ObjectKey>) {
        self.errors([Issue { line, field: field.to_owned(), message: message.into() }], object);
    }

    /// Reads one document.
    pub(super) fn document(&mut self, document: Document<'_>) {
        match (document.root, document.broken) {
            (Some(root), None) => self.node(&root, None),
            (Some(root), Some(issue)) => self.remains(&root, issue),
            (None, Some(issue)) => self.errors([issue], None),
            (None, None) => {}
        }
    }

    /// Of a document whose text breaks off: the whole items of a List are read, and of the rest its key.
    fn remains(&mut self, root: &Node<'_>, issue: Issue) {
        if let (Some(Value::List(items)), true) = (root.get("items").map(|items| &items.value), is_list(root, true)) {
            let item_type = item_type(root);
            let item_type = item_type.as_ref().map(|(api_version, kind)| TypeMeta { api_version, kind });
            let Some((last, whole)) = items.split_last() else { return self.errors([issue], None) };
            for item in whole {
                self.node(item, item_type);
            }
            let object = remaining_key(last, item_type);
            return self.errors([issue], object.as_ref());
        }
        let object = remaining_key(root, None);
        self.errors([issue], object.as_ref());
    }

    /// Reads one object, or the objects of a List. `inherited`: what an item of a typed List is.
    fn node(&mut self, node: &Node<'_>, inherited: Option<TypeMeta<'_>>) {
        if node.is_null() {
            return;
        }
        let Value::Map(_) = &node.value else {
            let message = format!("must be a mapping with apiVersion and kind, but is {}", node.what());
            return self.error(node.line, "", message, None);
        };
        if is_list(node, false) {
            return self.list(node);
        }
        let meta = match type_meta(node, inherited) {
            Ok(meta) => meta,
            Err((field, message)) => {
                let line = node.line_of(&Path::Root.key(field));
                return self.error(line, field, message, remaining_key(node, inherited).as_ref());
            }
        };
        match concern(meta) {
            Concern::Followed(kind) => self.object(node, kind),
            Concern::None => {}
            Concern::Refused(message, kind) => self.refuse(node, "apiVersion", message, kind),
            Concern::Misspelt(message, kind) => self.refuse(node, "kind", message, kind),
        }
    }

    fn refuse(&mut self, node: &Node<'_>, field: &'static str, message: String, kind: Option<Kind>) {
        let object = kind.and_then(|kind| key(node, kind).ok());
        self.error(node.line_of(&Path::Root.key(field)), field, message, object.as_ref());
    }

    fn list(&mut self, list: &Node<'_>) {
        let mut report = Report::default();
        report.own_keys(list, &Path::Root);
        self.errors(report.into_issues(), None);
        let item_type = item_type(list);
        let item_type = item_type.as_ref().map(|(api_version, kind)| TypeMeta { api_version, kind });
        match list.entry("items").map(|entry| (entry.line, &entry.value)) {
            Some((_, Node { value: Value::List(items), .. })) => {
                for item in items {
                    self.node(item, item_type);
                }
            }
            Some((line, items)) if !items.is_null() => {
                self.error(line, "items", format!("must be a list, but is {}", items.what()), None);
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &Node<'_>, kind: Kind) {
        let header = match key(node, kind) {
            Ok(key) => Header { key },
            Err((field, message)) => {
                let metadata = Path::Root.key("metadata");
                let line = node.line_of(&metadata.key(field));
                return self.error(line, &metadata.key(field).to_string(), message, None);
            }
        };
        let mut report = Report::default();
        report.keys(node, &Path::Root);
        let object = match kind {
            Kind::Pod => pod::read(node, &header, &mut report).map(Object::Pod),
            Kind::Namespace => cluster::namespace(node, &header, &mut report).map(Object::Namespace),
            Kind::Node => cluster::node(node, &header, &mut report).map(Object::Node),
            Kind::NetworkPolicy => policy::read(node, &header, &mut report).map(Object::Policy),
            Kind::LegacyNetworkPolicy => legacy::read(node, &header, &mut report).map(Object::Policy),
            Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
                tiers::read(node, &header, &mut report).map(Object::Policy)
            }
        };
        // A namespace that comes back in spite of complaints is one that is isolated to be safe, and a policy of a
        // cluster tier one that is closed where it can't be understood.
        let counts = matches!(kind, Kind::Namespace) || kind.is_cluster_policy();
        if let Some(object) = object.filter(|_| counts || report.is_clean()) {
            self.parsed.objects.push(Located { line: node.line as usize, object });
        }
        self.errors(report.into_issues(), Some(&header.key));
    }
}

/// Whether the node is a List; of a text that breaks off, `kind` may be missing yet.
fn is_list(node: &Node<'_>, breaks_off: bool) -> bool {
    let items = node.get("items").is_some();
    match node.get("kind").and_then(Node::scalar) {
        Some(kind) => kind.text == "List" || kind.text.ends_with("List") && items,
        None => breaks_off && items,
    }
}

/// What the items of a typed List are: those of a PodList are Pods.
fn item_type(list: &Node<'_>) -> Option<(String, String)> {
    let text = |key| Some(list.get(key)?.scalar()?.text.to_string());
    let kind = text("kind")?;
    let kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty())?;
    Some((text("apiVersion")?, kind.to_owned()))
}

fn type_meta<'t>(node: &'t Node<'_>, inherited: Option<TypeMeta<'t>>) -> Result<TypeMeta<'t>, (&'static str, String)> {
    let field = |name: &'static str, inherited: Option<&'t str>| match node.get(name) {
        Some(Node { value: Value::Scalar(scalar), .. }) if !scalar.text.is_empty() => Ok(&*scalar.text),
        Some(other) if !other.is_null() => Err((name, format!("must be a string, but is {}", other.what()))),
        _ => inherited.ok_or_else(|| (name, "is missing; every document needs apiVersion and kind".to_owned())),
    };
    Ok(TypeMeta {
        kind: field("kind", inherited.map(|t| t.kind))?,
        api_version: field("apiVersion", inherited.map(|t| t.api_version))?,
    })
}

/// The object's key. Names that are invalid are kept here (their complaint comes with the others).
fn key(node: &Node<'_>, kind: Kind) -> Result<ObjectKey, (&'static str, String)> {
    let metadata = node.get("metadata");
    let field = |name: &'static str| match metadata.and_then(|metadata| metadata.get(name)) {
        Some(Node { value: Value::Scalar(_), .. }) | None => {
            Ok(metadata.and_then(|m| m.get(name)?.scalar()).map(|scalar| scalar.text.to_string()))
        }
        Some(other) => Err((name, format!("must be a string, but is {}", other.what()))),
    };
    let name = field("name")?.filter(|name| !name.is_empty());
    let Some(name) = name else { return Err(("name", "is missing; every object needs a name".to_owned())) };
    let namespace = match kind {
        kind if !kind.is_namespaced() => String::new(),
        _ => field("namespace")?.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned()),
    };
    Ok(ObjectKey { kind, namespace, name })
}

/// The key of an object that can't be read, as far as it tells.
fn remaining_key(node: &Node<'_>, inherited: Option<TypeMeta<'_>>) -> Option<ObjectKey> {
    match concern(type_meta(node, inherited).ok()?) {
        Concern::Followed(kind) | Concern::Refused(_, Some(kind)) | Concern::Misspelt(_, Some(kind)) => {
            key(node, kind).ok()
        }
        _ => None,
    }
}
