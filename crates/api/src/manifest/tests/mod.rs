//! What manifest text means, by behaviour: policies, the other objects, files as such, and whatever else may come.

mod files;
mod objects;
mod policies;
mod robust;
mod tiers;

use super::{ManifestError, Parsed, parse};
use crate::{Namespace, Node, Object, Pod, PolicySpec};

/// The objects of a text without errors.
fn objects(text: &str) -> Vec<Object> {
    let Parsed { objects, errors } = parse("t.yaml", text);
    assert_eq!(errors, [], "{text}");
    objects.into_iter().map(|located| located.object).collect()
}

/// The only object of a text.
fn object(text: &str) -> Object {
    let mut objects = objects(text);
    assert_eq!(objects.len(), 1, "{text}");
    objects.remove(0)
}

fn pod(text: &str) -> Pod {
    match object(text) {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

fn namespace(text: &str) -> Namespace {
    match object(text) {
        Object::Namespace(namespace) => namespace,
        other => panic!("{other:?}"),
    }
}

fn node(text: &str) -> Node {
    match object(text) {
        Object::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

fn policy(text: &str) -> PolicySpec {
    match object(text) {
        Object::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// The errors of a text that yields no object.
fn errors(text: &str) -> Vec<ManifestError> {
    let Parsed { objects, errors } = parse("t.yaml", text);
    assert_eq!(objects, [], "{text}");
    errors
}

/// Line, field and message of the only error of a text.
fn error(text: &str) -> (usize, String, String) {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    let error = errors.remove(0);
    (error.line, error.field, error.message)
}

/// A NetworkPolicy whose spec is this text, indented by two; the spec begins at line 4.
fn v1(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    )
}

/// As [`v1`], in the old API.
fn legacy(spec: &str) -> String {
    v1(spec).replace("networking.k8s.io/v1", "extensions/v1beta1")
}
