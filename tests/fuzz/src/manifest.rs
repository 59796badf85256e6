//! Text of a manifest file: whatever it is, it is read or complained of; what was read is indexed, survives the disk, and
//! is judged as by the reference evaluator.

use podgate_api::manifest::{Parsed, parse};
use podgate_api::{Change, Object};
use podgate_policy::{Locality, World};
use podgate_watch::saved;

use crate::check::{compiled, difference};
use crate::draws::Rng;
use crate::flows::Candidates;

/// Flows asked about; the pods' addresses and the blocks' edges are drawn from.
const FLOWS: usize = 12;

/// One file.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = parse("fuzzed.yaml", &text);
    complaints(&parsed, &text);
    let objects: Vec<Object> = parsed.objects.into_iter().map(|located| located.object).collect();
    if objects.is_empty() {
        return;
    }
    for object in &objects {
        let change = Change::Apply(object.clone());
        assert_eq!(saved::fuzzing::through(&change), Some(change));
    }
    judged(&objects, &mut Rng::of(data));
}

/// Each complaint says where it is, and something. (A line of YAML may end with a lone CR as well.)
fn complaints(parsed: &Parsed, text: &str) {
    let lines = text.split('\n').count() + text.matches('\r').count() + 1;
    for error in &parsed.errors {
        assert!((1..=lines).contains(&error.line) && !error.message.is_empty(), "{error}");
    }
    assert!(parsed.objects.iter().all(|object| (1..=lines).contains(&object.line)));
}

/// The objects' world gives the verdicts of the reference.
pub fn judged(objects: &[Object], rng: &mut Rng) {
    let world: World = objects.iter().cloned().collect();
    let flows = Candidates::of(objects).flows(rng, FLOWS);
    let node = world.pods.values().find_map(|pod| pod.node.clone()).unwrap_or_default();
    for locality in [Locality::All, Locality::Node(node)] {
        let snapshot = compiled(objects, &locality);
        if let Some(difference) = flows.iter().find_map(|flow| difference(&snapshot, &world, &locality, flow)) {
            panic!("{locality:?}\n{difference}");
        }
    }
}
