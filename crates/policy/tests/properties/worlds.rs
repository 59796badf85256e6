//! Random worlds compiled from nothing: engine and reference give the same verdict, by the same rule.

use podgate_api::{Direction, Object};
use podgate_engine::NodeOrigin;
use podgate_policy::reference::{self, Flow};
use podgate_policy::{Locality, World};

use crate::check::{
    Tally, by_engine, by_reference, compiled, difference, fewer, guarded, seed, setting, simpler, simplified,
};
use crate::common::rng::Rng;
use crate::flows::Candidates;
use crate::generate;

const FLOWS: usize = 500;

/// Whose verdicts are compared in world `number`: all pods' mostly, one node's in every fourth.
fn locality(number: u64) -> Locality {
    if number % 4 == 3 { Locality::Node("n1".to_owned()) } else { Locality::All }
}

fn first_difference(objects: &[Object], locality: &Locality, flows: &[Flow]) -> Result<(), String> {
    guarded(|| {
        let world: World = objects.iter().cloned().collect();
        let snapshot = compiled(objects, locality);
        flows.iter().find_map(|flow| difference(&snapshot, &world, locality, flow)).map_or(Ok(()), Err)
    })
}

/// Fails with the smallest world around that shows the difference.
fn report(number: u64, objects: Vec<Object>, flows: &[Flow]) -> ! {
    let locality = locality(number);
    let differs = |objects: &[Object], flow: &Flow| first_difference(objects, &locality, &[*flow]);
    let flow = flows.iter().find(|f| differs(&objects, f).is_err()).expect("a flow that differs");
    let fails = |objects: &[Object]| differs(objects, flow).is_err();
    let objects = fewer(simplified(fewer(objects, fails), simpler, fails), fails);
    let message = differs(&objects, flow).expect_err("still differs");
    let listed: Vec<_> = objects.iter().map(|o| format!("  {o:?}")).collect();
    panic!("PODGATE_SEED={} world {number}, {locality:?}\n{}\n{message}", seed(), listed.join("\n"));
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
        let locality = locality(number);
        if first_difference(&objects, &locality, &flows).is_err() {
            report(number, objects, &flows);
        }
        let world: World = objects.into_iter().collect();
        let both = |flow| Direction::BOTH.map(|direction| by_reference(&world, &locality, flow, direction));
        flows.iter().flat_map(both).for_each(|answer| tally.count(&answer));
    }
    println!("{tally:?}");
    tally.assert_all_sorts(3);
    assert!(tally.total() >= 40_000 || worlds < 400, "fewer than 20,000 flows, both directions");
}

#[test]
fn large_worlds_are_judged_as_by_the_reference() {
    for number in 0..setting("PODGATE_WORLDS", 400).div_ceil(200) {
        let mut rng = Rng::new(seed().wrapping_mul(29).wrapping_add(number));
        let objects = generate::large_world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 2_000);
        if let Err(difference) = first_difference(&objects, &locality(number), &flows) {
            panic!("PODGATE_SEED={} large world {number}\n{difference}", seed());
        }
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    for number in 0..setting("PODGATE_WORLDS", 400) / 4 {
        let mut rng = Rng::new(seed().wrapping_mul(31).wrapping_add(number));
        let mut objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 200);
        let first = compiled(&objects, &Locality::All);
        for _ in 0..3 {
            rng.shuffle(&mut objects);
            let other = compiled(&objects, &Locality::All);
            for flow in &flows {
                let [first, other] = [&first, &other].map(|s| by_engine(s, flow, NodeOrigin::Address));
                assert_eq!(first, other, "PODGATE_SEED={} world {number}, {flow}, last order {objects:?}", seed());
            }
        }
    }
}

/// The world without anything that says of an address that it is a node's.
fn without_node_addresses(mut world: World) -> World {
    world.nodes.values_mut().for_each(|node| node.addresses.clear());
    for pod in world.pods.values_mut() {
        pod.host_addresses.clear();
        if pod.host_network {
            pod.addresses.clear();
        }
    }
    world
}

#[test]
fn a_forged_node_address_is_judged_like_any_other_address() {
    let (mut differing, mut hairpins) = (0, 0);
    for number in 0..setting("PODGATE_WORLDS", 400) / 4 {
        let mut rng = Rng::new(seed().wrapping_mul(37).wrapping_add(number));
        let objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 200);
        let snapshot = compiled(&objects, &Locality::All);
        let world: World = objects.iter().cloned().collect();
        let nodeless = without_node_addresses(world.clone());
        for flow in &flows {
            let [(_, egress), (_, ingress)] = by_engine(&snapshot, flow, NodeOrigin::Forged);
            let context = format!("PODGATE_SEED={} world {number}: {flow}\n{objects:?}", seed());
            let pod = |address| reference::owner(&world, address).map(|pod| (&pod.namespace, &pod.name));
            if pod(flow.source).is_some() && pod(flow.source) == pod(flow.destination) {
                hairpins += usize::from(!egress.allow || !ingress.allow);
                for (direction, answer) in [(Direction::Egress, egress), (Direction::Ingress, ingress)] {
                    let cause = reference::judge_hairpin(&world, flow, direction);
                    assert_eq!((answer.allow, answer.rule.as_deref()), (cause.allows(), cause.rule()), "{context}");
                }
                continue;
            }
            assert_eq!(egress, by_reference(&world, &Locality::All, flow, Direction::Egress), "egress, {context}");
            let expected = by_reference(&nodeless, &Locality::All, flow, Direction::Ingress);
            assert_eq!(ingress, expected, "ingress, {context}");
            differing += usize::from(expected != by_reference(&world, &Locality::All, flow, Direction::Ingress));
        }
    }
    assert!(differing > 0, "no flow from a pod's own node was tried");
    assert!(hairpins > 0, "no pod was denied itself by way of a Service");
}
