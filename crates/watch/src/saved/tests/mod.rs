//! Tests of the saved world. Here: what they share.

mod damage;
mod disk;
mod format;
mod hand_over;
mod kill;
mod recording;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use podgate_api::{Change, Kind, Labels, Object, ObjectKey, Pod};

use super::{Loaded, Recorder, Settings, Status, load};

/// Nothing here takes this long, but on a machine that does much else at the same time.
const SOON: Duration = Duration::from_secs(30);

/// A world as a map, to compare with.
type Model = BTreeMap<ObjectKey, Object>;

fn settings(directory: &Path) -> Settings {
    Settings {
        durable_within: Duration::from_millis(5),
        retry_after: Duration::from_millis(5),
        ..Settings::new(directory, "cluster/node")
    }
}

fn pod(name: impl ToString, label: impl ToString) -> Object {
    let (namespace, name) = ("shop".to_owned(), name.to_string());
    let labels = Labels::from([("batch".to_owned(), label.to_string())]);
    Object::Pod(Pod { namespace, name, labels, ..Pod::default() })
}

fn apply(name: impl ToString, label: impl ToString) -> Change {
    Change::Apply(pod(name, label))
}

fn delete(name: impl ToString) -> Change {
    Change::Delete(ObjectKey { kind: Kind::Pod, namespace: "shop".to_owned(), name: name.to_string() })
}

fn take(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match change.clone() {
            Change::Apply(object) => drop(model.insert(object.key(), object)),
            Change::Delete(key) => drop(model.remove(&key)),
        }
    }
}

fn model(changes: &[Change]) -> Model {
    let mut model = Model::new();
    take(&mut model, changes);
    model
}

/// The world that was loaded, with no object in it twice.
fn world(loaded: &Loaded) -> Option<Model> {
    let changes = loaded.world.as_ref()?.changes().unwrap();
    let model = model(&changes);
    assert_eq!(model.len(), changes.len(), "each object once, and no deletions");
    Some(model)
}

/// Loads a world that must be there and be sound.
fn load_sound(settings: &Settings) -> Model {
    let loaded = load(settings);
    assert_eq!(loaded.problems, Vec::<String>::new());
    world(&loaded).expect("a world")
}

fn start(settings: &Settings) -> Recorder {
    Recorder::start(settings, &load(settings)).unwrap()
}

/// Waits until all that was recorded is in the journal.
fn settle(recorder: &Recorder) {
    wait(recorder, |s| s.saving && s.waiting_bytes == 0 && s.error.is_none());
}

fn wait(recorder: &Recorder, such: impl FnMut(&Status) -> bool) {
    assert!(recorder.wait_until(SOON, such), "still {:?}", recorder.status());
}

/// Makes a directory with a world of these batches, the first of them in the snapshot; the others in the journal.
fn write(settings: &Settings, batches: &[Vec<Change>]) {
    let recorder = start(settings);
    let (first, rest) = batches.split_first().unwrap();
    recorder.record(first);
    recorder.synced();
    settle(&recorder);
    for batch in rest {
        recorder.record(batch);
        settle(&recorder);
    }
    assert!(recorder.stop());
}
