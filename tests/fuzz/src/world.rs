//! Worlds, their changes and flows, drawn from the bytes: an index that is built step by step says what the reference
//! evaluator says of the same world.

use std::collections::BTreeMap;

use podgate_api::{Change, Object, ObjectKey};
use podgate_policy::{Index, Locality, World};

use crate::check::difference;
use crate::draws::Rng;
use crate::flows::Candidates;
use crate::generate;

/// Builds after the first.
const MOST_STEPS: usize = 6;
const FLOWS: usize = 16;

/// One sequence.
pub fn run(data: &[u8]) {
    let mut rng = Rng::of(data);
    let locality = if rng.chance(30) { Locality::Node("n1".to_owned()) } else { Locality::All };
    let mut keys = generate::keys();
    let few = 5 + rng.below(keys.len() - 5);
    rng.shuffle(&mut keys);
    keys.truncate(few);
    let mut there: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    let (mut world, mut index) = (World::default(), Index::new(locality.clone()));
    for key in &keys {
        let object = generate::object(&mut rng, key);
        there.insert(key.clone(), object.clone());
        world.apply(Change::Apply(object.clone()));
        index.apply(Change::Apply(object));
    }
    agrees(&mut rng, &there, &world, &mut index, &locality);
    for _ in 0..rng.below(MOST_STEPS) {
        for _ in 0..1 + rng.below(4) {
            let key = rng.pick(&keys).clone();
            let change = match there.get(&key) {
                Some(_) if rng.chance(30) => Change::Delete(key.clone()),
                Some(old) => Change::Apply(generate::edited(&mut rng, old)),
                None => Change::Apply(generate::object(&mut rng, &key)),
            };
            match &change {
                Change::Apply(object) => drop(there.insert(key, object.clone())),
                Change::Delete(key) => drop(there.remove(key)),
            }
            world.apply(change.clone());
            index.apply(change);
        }
        agrees(&mut rng, &there, &world, &mut index, &locality);
    }
}

fn agrees(rng: &mut Rng, there: &BTreeMap<ObjectKey, Object>, world: &World, index: &mut Index, locality: &Locality) {
    let snapshot = index.build().snapshot;
    for flow in Candidates::of(there.values()).flows(rng, FLOWS) {
        if let Some(difference) = difference(&snapshot, world, locality, &flow) {
            let listed: Vec<_> = there.values().map(|object| format!("  {object:?}")).collect();
            panic!("{locality:?}\n{}\n{difference}", listed.join("\n"));
        }
    }
}
