//! An API server's answers, a list and the lines of a watch: whatever they are, they become changes or problems. An
//! object that a manifest could say is the object that the same text says in a manifest.

use std::collections::BTreeMap;

use podgate_api::{Change, Object, ObjectKey, manifest};
use podgate_policy::{Index, Locality};
use podgate_watch::Event;
use podgate_watch::kube::fuzzing::{RESOURCE_COUNT, follow, kind};
use serde_json::value::RawValue;

/// The first byte chooses the resource. What stands before a line of `%%` is a list.
pub fn run(data: &[u8]) {
    let Some((resource, rest)) = data.split_first() else { return };
    let resource = usize::from(*resource) % RESOURCE_COUNT;
    let parts = rest.windows(4).position(|four| four == b"\n%%\n").map(|at| (&rest[..at], &rest[at + 4..]));
    let (list, lines) = parts.map_or((None, rest), |(list, lines)| (Some(list), lines));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let told = runtime.block_on(follow(resource, list, lines));
    let mut index = Index::new(Locality::All);
    let mut known: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for event in told.events {
        match event {
            Event::Changes { changes, .. } => {
                for change in changes {
                    match &change {
                        Change::Apply(object) => {
                            assert_eq!(object.key().kind, kind(resource));
                            known.insert(object.key(), object.clone());
                        }
                        Change::Delete(key) => {
                            assert!(known.remove(key).is_some(), "{key} is gone, and was never there");
                        }
                    }
                    index.apply(change);
                }
            }
            Event::Problems(problems) => assert!(problems.iter().all(|problem| !problem.message.is_empty())),
            Event::Synced | Event::Retold { .. } | Event::Freshness(_) => {}
        }
    }
    index.build();
    if list.is_none() {
        as_a_manifest_says(resource, lines);
    }
}

/// A watch's first line, if it adds an object that its own text, read as a manifest, says without a complaint.
fn as_a_manifest_says(resource: usize, lines: &[u8]) {
    let line = lines.split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    let Ok(event) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(line) else { return };
    let (Some(what), Some(object)) = (event.get("type"), event.get("object")) else { return };
    if what.get() != "\"ADDED\"" {
        return;
    }
    let parsed = manifest::parse("object.json", object.get());
    let [located] = &parsed.objects[..] else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    if !parsed.errors.is_empty() || located.object.key().kind != kind(resource) {
        return;
    }
    let told = runtime.block_on(follow(resource, None, line));
    let changes = told.events.into_iter().find_map(|event| match event {
        Event::Changes { changes, .. } => Some(changes),
        _ => None,
    });
    // A name that is said twice, by an escape or in another namespace's words, is for the API server to refuse.
    if let Some([Change::Apply(applied)]) = changes.as_deref() {
        assert_eq!(*applied, located.object);
    }
}
