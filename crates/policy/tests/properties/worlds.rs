//! Random worlds compiled from nothing: engine and reference give the same verdict, by the same rule.

use podgate_api::{Direction, Object};
use podgate_engine::{Cause, NodeOrigin};
use podgate_policy::reference::{self, Flow};
use podgate_policy::{Locality, World};

use crate::check::{
    Tally, by_engine, by_reference, compiled, difference, fewer, guarded, seed, setting, simpler, simplified,
};
use crate::common::rng::Rng;
use crate::flows::Candidates;
use crate::generate;

const FLOWS: usize = 500;

fn first_difference(objects: &[Object], flows: &[Flow]) -> Result<(), String> {
    guarded(|| {
        let world: World = objects.iter().cloned().collect();
        let (_, snapshot) = compiled(objects, Locality::All);
        flows.iter().find_map(|flow| difference(&snapshot, &world, flow)).map_or(Ok(()), Err)
    })
}

/// Fails with the smallest world around that shows the difference.
fn report(number: u64, objects: Vec<Object>, flows: &[Flow]) -> ! {
    let flow = flows.iter().find(|f| first_difference(&objects, &[**f]).is_err()).expect("a flow that differs");
    let fails = |objects: &[Object]| first_difference(objects, &[*flow]).is_err();
    let objects = fewer(simplified(fewer(objects, fails), simpler, fails), fails);
    let message = first_difference(&objects, &[*flow]).expect_err("still differs");
    let listed: Vec<_> = objects.iter().map(|o| format!("  {o:?}")).collect();
    panic!("PODGATE_SEED={} world {number}\n{}\n{message}", seed(), listed.join("\n"));
}

#[test]
fn random_worlds_are_judged_as_by_the_reference() {
    let worlds = setting("PODGATE_WORLDS", 400);
    println!("PODGATE_SEED={} PODGATE_WORLDS={worlds}", seed());
    let mut tally = Tally::default();
    for number in 0..worlds {
        let mut rng = Rng::new(seed().wrapping_add(number));
        let objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, FLOWS);
        if first_difference(&objects, &flows).is_err() {
            report(number, objects, &flows);
        }
        let world: World = objects.into_iter().collect();
        flows.iter().flat_map(|f| Direction::BOTH.map(|d| by_reference(&world, f, d))).for_each(|a| tally.count(&a));
    }
    println!("{tally:?}");
    tally.assert_all_sorts(5);
    assert!(tally.total() >= 40_000 || worlds < 400, "fewer than 20,000 flows, both directions");
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    for number in 0..setting("PODGATE_WORLDS", 400) / 4 {
        let mut rng = Rng::new(seed().wrapping_mul(31).wrapping_add(number));
        let mut objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 200);
        let (_, first) = compiled(&objects, Locality::All);
        for _ in 0..3 {
            rng.shuffle(&mut objects);
            let (_, other) = compiled(&objects, Locality::All);
            for flow in &flows {
                let (first, other) = (by_engine(&first, flow), by_engine(&other, flow));
                assert_eq!(first, other, "PODGATE_SEED={} world {number}, {flow}, last order {objects:?}", seed());
            }
        }
    }
}

#[test]
fn only_pods_of_the_named_node_are_subjects() {
    for number in 0..setting("PODGATE_WORLDS", 400) / 4 {
        let mut rng = Rng::new(seed().wrapping_mul(37).wrapping_add(number));
        let objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 200);
        let world: World = objects.iter().cloned().collect();
        let (_, snapshot) = compiled(&objects, Locality::Node("n1".to_owned()));
        for flow in &flows {
            let judgement = snapshot.judge(&flow.to_engine(), NodeOrigin::Address);
            for (direction, engine) in by_engine(&snapshot, flow) {
                let subject = reference::subject(&world, flow, direction);
                let context = format!("PODGATE_SEED={} world {number}: {flow} {}", seed(), direction.as_str());
                match subject {
                    Some(pod) if pod.node.as_deref() == Some("n1") => {
                        assert_eq!(engine, by_reference(&world, flow, direction), "{context}\n{objects:?}");
                    }
                    Some(_) => assert!(engine.allow && engine.rule.is_none(), "{context}: {engine}"),
                    // No pod: open, unless the address is one that a pod of this node should have.
                    None => {
                        let decision =
                            if direction == Direction::Egress { judgement.egress } else { judgement.ingress };
                        let own = flow.subject_end(direction);
                        let in_range =
                            world.nodes.get("n1").is_some_and(|n| n.pod_cidrs.iter().any(|c| c.contains(&own)));
                        match decision.cause {
                            Cause::Open | Cause::OwnNode | Cause::Itself => {}
                            Cause::Unknown => assert!(in_range, "{context}: unknown, but not of this node"),
                            other => panic!("{context}: {other:?} for an address that is no pod's"),
                        }
                    }
                }
            }
        }
    }
}
