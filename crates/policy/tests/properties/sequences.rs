//! Random sequences of changes: after every build the incremental index says what one built from nothing says, and
//! what the reference says; and the books that the kernel's state is kept by are right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podgate_api::{Change, Direction, Kind, Object, ObjectKey, Tier};
use podgate_engine::{Cause, Judgement, NodeOrigin, RuleId, Snapshot};
use podgate_policy::reference::{self, Flow};
use podgate_policy::{Build, Exposure, Index, Locality, World};

use crate::check::{by_engine, compiled, difference, fewer, guarded, is_local, seed, setting, simpler, simplified};
use crate::common::rng::Rng;
use crate::flows::Candidates;
use crate::generate;

#[derive(Debug, Clone)]
enum Step {
    Change(Box<Change>),
    Forget(IpAddr),
    Build,
}

/// What went wrong, and with which flow, if with one.
#[derive(Debug)]
struct Failure {
    message: String,
    flow: Option<Flow>,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure { message, flow: None }
    }
}

/// The steps of a sequence: a world that arrives, then changes of all kinds with builds in between.
fn steps(rng: &mut Rng, objects: Vec<Object>) -> Vec<Step> {
    let mut keys: Vec<_> = objects.iter().map(Object::key).chain(generate::keys()).collect();
    keys.sort();
    keys.dedup();
    let mut world = World::default();
    let mut steps = Vec::new();
    let push = |steps: &mut Vec<Step>, world: &mut World, change: Change| {
        world.apply(change.clone());
        steps.push(Step::Change(Box::new(change)));
    };
    for object in objects {
        if rng.chance(80) {
            push(&mut steps, &mut world, Change::Apply(object));
        }
    }
    steps.push(Step::Build);
    let build_after = *rng.pick(&[1, 2, 5, 12]);
    for _ in 0..10 + rng.below(50) {
        let key = rng.pick(&keys);
        let old = get(&world, key);
        match (old, rng.below(100)) {
            (Some(_), 0..20) => push(&mut steps, &mut world, Change::Delete(key.clone())),
            (Some(old), 20..75) => push(&mut steps, &mut world, Change::Apply(generate::edited(rng, &old))),
            // A deletion told twice, or of something never there.
            (None, 0..10) => push(&mut steps, &mut world, Change::Delete(key.clone())),
            // The very same object again: a relist.
            (Some(old), 75..80) => push(&mut steps, &mut world, Change::Apply(old)),
            (_, 95..100) => {
                let addresses: Vec<_> = world.pods.values().flat_map(|p| p.addresses.clone()).collect();
                if !addresses.is_empty() {
                    steps.push(Step::Forget(*rng.pick(&addresses)));
                }
            }
            _ => push(&mut steps, &mut world, Change::Apply(generate::object(rng, key))),
        }
        if rng.below(build_after) == 0 {
            steps.push(Step::Build);
        }
    }
    steps.push(Step::Build);
    steps
}

fn get(world: &World, key: &ObjectKey) -> Option<Object> {
    match key.kind {
        Kind::Namespace => world.namespaces.get(&key.name).cloned().map(Object::Namespace),
        Kind::Node => world.nodes.get(&key.name).cloned().map(Object::Node),
        Kind::Pod => world.pods.get(&(key.namespace.clone(), key.name.clone())).cloned().map(Object::Pod),
        _ => world.policies.get(key).cloned().map(Object::Policy),
    }
}

fn objects(world: &World) -> Vec<Object> {
    let namespaces = world.namespaces.values().cloned().map(Object::Namespace);
    let nodes = world.nodes.values().cloned().map(Object::Node);
    let pods = world.pods.values().cloned().map(Object::Pod);
    namespaces.chain(nodes).chain(pods).chain(world.policies.values().cloned().map(Object::Policy)).collect()
}

/// Whoever had the address has it no more, until a pod is applied anew.
fn forget(world: &mut World, address: IpAddr) {
    for pod in world.pods.values_mut().filter(|p| !p.host_network) {
        pod.addresses.retain(|a| *a != address);
    }
}

/// What follows from all builds so far.
struct Books<'l> {
    locality: &'l Locality,
    exposure: BTreeMap<IpAddr, Exposure>,
    ranges: Vec<ipnet::IpNet>,
    networks: Vec<ipnet::IpNet>,
    /// What each number stood for last, and in which generation.
    names: BTreeMap<RuleId, (String, u64)>,
    /// Snapshots that somebody still has.
    held: Vec<Arc<Snapshot>>,
    /// Per flow and direction: a build allowed it, and neither end was touched since. An established connection goes
    /// on for so long.
    established: Vec<[bool; 2]>,
    /// Per flow: what a build decided, where neither end was touched since and the pod ranges are the same. The kernel
    /// may repeat it for so long.
    repeated: Vec<Option<Judgement>>,
}

/// Replays the steps; every build is checked.
fn replay(steps: &[Step], locality: &Locality, flows: &[Flow]) -> Result<(), Failure> {
    guarded(|| {
        let (mut index, mut world) = (Index::new(locality.clone()), World::default());
        let (mut books, mut rng) = (Books::new(locality), Rng::new(steps.len() as u64));
        let mut generation = Snapshot::empty().generation();
        // Few, so that numbers become other rules'.
        index.remember_rules(rng.below(4));
        for step in steps {
            match step {
                Step::Change(change) => {
                    world.apply((**change).clone());
                    index.apply((**change).clone());
                }
                Step::Forget(address) => {
                    forget(&mut world, *address);
                    index.forget_address(*address);
                }
                Step::Build => {
                    let build = index.build();
                    if build.snapshot.generation() <= generation {
                        return Err(Failure::from("the generation did not grow".to_owned()));
                    }
                    generation = build.snapshot.generation();
                    let mut shuffled = objects(&world);
                    rng.shuffle(&mut shuffled);
                    let rebuilt = compiled(&shuffled, locality);
                    books.verdicts(&build, &rebuilt, &world, flows)?;
                    books.kernel_state(&build, &world)?;
                    books.hold(&build, &mut rng)?;
                    pods(&index, &world)?;
                }
            }
        }
        Ok(())
    })
}

/// The index knows whose each address is.
fn pods(index: &Index, world: &World) -> Result<(), String> {
    for address in world.pods.values().flat_map(|p| &p.addresses) {
        let expected = reference::owner(world, *address).map(|p| format!("{}/{}", p.namespace, p.name));
        let found = index.pod_at(*address);
        if found != expected {
            return Err(format!("{address} is {found:?}'s, should be {expected:?}'s"));
        }
    }
    Ok(())
}

impl<'l> Books<'l> {
    fn new(locality: &'l Locality) -> Self {
        Books {
            locality,
            exposure: BTreeMap::new(),
            ranges: Vec::new(),
            networks: Vec::new(),
            names: BTreeMap::new(),
            held: Vec::new(),
            established: Vec::new(),
            repeated: Vec::new(),
        }
    }

    fn verdicts(&mut self, build: &Build, rebuilt: &Snapshot, world: &World, flows: &[Flow]) -> Result<(), Failure> {
        self.established.resize(flows.len(), [false; 2]);
        for (i, flow) in flows.iter().enumerate() {
            let failure = |message| Failure { message, flow: Some(*flow) };
            let answers = by_engine(&build.snapshot, flow, NodeOrigin::Address);
            let from_nothing = by_engine(rebuilt, flow, NodeOrigin::Address);
            if answers != from_nothing {
                return Err(failure(format!("{flow}\n  incremental: {answers:?}\n  rebuilt: {from_nothing:?}")));
            }
            difference(&build.snapshot, world, self.locality, flow).map_or(Ok(()), |message| Err(failure(message)))?;
            let touched = build.touched.contains(&flow.source) || build.touched.contains(&flow.destination);
            for ((_, answer), established) in answers.iter().zip(&mut self.established[i]) {
                // While nobody is known to have the address, there is nobody to protect.
                if *established && !touched && answer.is_denied_by_rule() {
                    return Err(failure(format!("{flow} lost its permission, but neither end is touched")));
                }
                *established = answer.allow || *established && !touched;
            }
        }
        self.cache(build, flows)
    }

    /// What the kernel repeats is what would be decided, by the same rules.
    fn cache(&mut self, build: &Build, flows: &[Flow]) -> Result<(), Failure> {
        self.repeated.resize(flows.len(), None);
        if let Some(networks) = &build.pod_networks {
            self.networks.clone_from(networks);
        }
        for (flow, repeated) in flows.iter().zip(&mut self.repeated) {
            let failure = |message| Err(Failure { message, flow: Some(*flow) });
            let engine = flow.to_engine();
            let now = build.snapshot.judge(&engine, NodeOrigin::Forged);
            let ends = [flow.source, flow.destination];
            let touched = ends.iter().any(|a| build.touched.contains(a) || build.changed.contains(a));
            let forgotten = touched || build.pod_ranges.is_some();
            if let Some(before) = repeated.filter(|before| !forgotten && *before != now) {
                return failure(format!("{flow} was {before:?} and is {now:?}, but neither end is touched"));
            }
            let mut rules = repeated.iter().flat_map(|before| [before.egress.rule(), before.ingress.rule()]).flatten();
            if let Some(rule) = rules.find(|rule| !forgotten && build.reused.contains(rule)) {
                return failure(format!("{flow} is still repeated by {rule:?}, which is another rule's now"));
            }
            let unknown = [now.egress.cause, now.ingress.cause].contains(&Cause::Unknown);
            *repeated = (!unknown).then_some(now);
            let closed = build.snapshot.closed(engine.destination, engine.protocol, engine.port);
            let stranger = !self.networks.iter().any(|network| network.contains(&flow.source));
            if closed.is_some_and(|rule| stranger && now.ingress.cause != Cause::Denied(rule)) {
                return failure(format!("{flow} is {now:?}, but {closed:?} closes the port"));
            }
        }
        Ok(())
    }

    /// No two snapshots that anybody has at one time name another rule by one number, and a later one tells that it does.
    fn hold(&mut self, build: &Build, rng: &mut Rng) -> Result<(), String> {
        let snapshot = &build.snapshot;
        let generation = snapshot.generation();
        for (id, info) in snapshot.rules() {
            let name = format!("{} {:?}", info.name, info.action);
            let other = |(was, _): &&(String, u64)| *was != name;
            if let Some((was, last)) = self.names.get(&id).filter(other) {
                if build.reused.binary_search(&id).is_err() || info.since != generation {
                    return Err(format!("{id:?} was {was} and is {name} now, which nobody is told"));
                }
                if let Some(held) = self.held.iter().find(|held| held.rule(id).is_some()) {
                    return Err(format!("{id:?} is {name} now, but in {held:?}, which is in use, it is {was}"));
                }
                if *last >= info.since.0 {
                    return Err(format!("{id:?} is {name} since {:?}, but was {was} in {last}", info.since));
                }
            } else if info.since > generation {
                return Err(format!("{id:?} is {name} only from {:?} on", info.since));
            }
            self.names.insert(id, (name, generation.0));
        }
        self.held.push(Arc::clone(snapshot));
        // The newest is in force.
        self.held.retain(|held| held.generation() == generation || rng.chance(40));
        Ok(())
    }

    fn kernel_state(&mut self, build: &Build, world: &World) -> Result<(), String> {
        let told: BTreeSet<_> = build.exposure.iter().map(|(address, _)| address).collect();
        if told.len() != build.exposure.len() {
            return Err(format!("an address is told twice: {:?}", build.exposure));
        }
        for (address, exposure) in &build.exposure {
            match exposure {
                Some(exposure) => drop(self.exposure.insert(*address, *exposure)),
                None => drop(self.exposure.remove(address)),
            }
        }
        let expected = exposure(world, self.locality);
        if self.exposure != expected {
            return Err(format!("exposure\n  is        {:?}\n  should be {expected:?}", self.exposure));
        }
        if let Some(ranges) = &build.pod_ranges {
            self.ranges.clone_from(ranges);
        }
        let ranges = pod_ranges(world, self.locality);
        if self.ranges != ranges {
            return Err(format!("pod ranges are {:?}, should be {ranges:?}", self.ranges));
        }
        let networks = pod_networks(world, self.locality);
        if self.networks != networks {
            return Err(format!("pods' networks are {:?}, should be {networks:?}", self.networks));
        }
        let cluster = |p: &&podgate_api::PolicySpec| p.tier != Tier::NetworkPolicy;
        let judged = world.pods.values().filter(|p| {
            is_local(self.locality, p) && p.addresses.iter().any(|a| reference::owner(world, *a) == Some(p))
        });
        let mut speaking = judged.map(|p| reference::policies_selecting(world, p, Direction::Egress));
        if speaking.any(|policies| policies.iter().any(cluster)) && !build.judge_input {
            return Err("a cluster tier is about egress of a pod, but input is not judged".to_owned());
        }
        Ok(())
    }
}

/// The pod ranges of the node, or of all nodes, sorted.
fn pod_ranges(world: &World, locality: &Locality) -> Vec<ipnet::IpNet> {
    let local = |node: &&podgate_api::Node| match locality {
        Locality::All => true,
        Locality::Node(name) => node.name == *name,
    };
    let ranges: BTreeSet<_> = world.nodes.values().filter(local).flat_map(|n| n.pod_cidrs.clone()).collect();
    ranges.into_iter().collect()
}

/// The blocks that hold a pod's address, and the pod ranges of other nodes, sorted.
fn pod_networks(world: &World, locality: &Locality) -> Vec<ipnet::IpNet> {
    let addresses: BTreeSet<_> = world.pods.values().flat_map(|p| p.addresses.clone()).collect();
    let owned = addresses.into_iter().filter(|a| reference::owner(world, *a).is_some());
    let block = |a: IpAddr| ipnet::IpNet::new(a, if a.is_ipv4() { 24 } else { 64 }).unwrap().trunc();
    let elsewhere = |node: &&podgate_api::Node| matches!(locality, Locality::Node(name) if node.name != *name);
    let ranges = world.nodes.values().filter(elsewhere).flat_map(|n| n.pod_cidrs.clone());
    owned.map(block).chain(ranges).collect::<BTreeSet<_>>().into_iter().collect()
}

/// For every address of a live local pod: whether some policy is about it.
fn exposure(world: &World, locality: &Locality) -> BTreeMap<IpAddr, Exposure> {
    let addresses: BTreeSet<_> = world.pods.values().flat_map(|p| p.addresses.clone()).collect();
    let owned = addresses.into_iter().filter_map(|a| Some((a, reference::owner(world, a)?)));
    owned
        .filter(|(_, pod)| is_local(locality, pod))
        .map(|(address, pod)| {
            let about = |direction| {
                reference::annotation_isolates(world, pod, direction)
                    || !reference::policies_selecting(world, pod, direction).is_empty()
            };
            (address, Exposure { ingress: about(Direction::Ingress), egress: about(Direction::Egress) })
        })
        .collect()
}

fn applied(step: &Step) -> Option<&Object> {
    let Step::Change(change) = step else { return None };
    if let Change::Apply(object) = &**change { Some(object) } else { None }
}

fn simpler_step(step: &Step) -> Vec<Step> {
    let objects = applied(step).map(simpler).unwrap_or_default();
    objects.into_iter().map(|o| Step::Change(Box::new(Change::Apply(o)))).collect()
}

/// Fails with the shortest sequence around that shows the failure.
fn report(number: u64, steps: Vec<Step>, locality: &Locality, flows: &[Flow], failure: Failure) -> ! {
    let flows = failure.flow.map_or(flows.to_vec(), |flow| vec![flow]);
    let fails = |steps: &[Step]| replay(steps, locality, &flows).is_err();
    let steps = if fails(&steps) { fewer(simplified(fewer(steps, fails), simpler_step, fails), fails) } else { steps };
    let message = replay(&steps, locality, &flows).map_or_else(|f| f.message, |()| failure.message);
    let listed: Vec<_> = steps.iter().map(|s| format!("  {s:?}")).collect();
    panic!("PODGATE_SEED={} sequence {number}, {locality:?}\n{}\n{message}", seed(), listed.join("\n"));
}

/// Replays for an agent of all pods, and for one of a node.
fn check(number: u64, steps: Vec<Step>, flows: &[Flow]) {
    for locality in [Locality::All, Locality::Node("n1".to_owned())] {
        if let Err(failure) = replay(&steps, &locality, flows) {
            report(number, steps, &locality, flows, failure);
        }
    }
}

#[test]
fn incremental_builds_equal_builds_from_nothing() {
    let sequences = setting("PODGATE_WORLDS", 400) / 2;
    println!("PODGATE_SEED={} sequences {sequences}", seed());
    for number in 0..sequences {
        let mut rng = Rng::new(seed().wrapping_mul(41).wrapping_add(number));
        let objects = generate::world(&mut rng);
        let steps = steps(&mut rng, objects);
        let flows = Candidates::of(steps.iter().filter_map(applied)).flows(&mut rng, 60);
        check(number, steps, &flows);
    }
}

#[test]
fn incremental_builds_of_a_large_world_equal_builds_from_nothing() {
    let mut rng = Rng::new(seed().wrapping_mul(53));
    let objects = generate::large_world(&mut rng);
    let flows = Candidates::of(&objects).flows(&mut rng, 500);
    let mut steps = steps(&mut rng, objects);
    let mut builds = 0;
    steps.retain(|step| {
        !matches!(step, Step::Build) || {
            builds += 1;
            builds % 4 == 1
        }
    });
    steps.push(Step::Build);
    if let Err(failure) = replay(&steps, &Locality::All, &flows) {
        panic!("PODGATE_SEED={} large sequence\n{}", seed(), failure.message);
    }
}

#[test]
fn a_deleted_namespace_leaves_nothing_behind_in_any_order() {
    for number in 0..setting("PODGATE_WORLDS", 400) / 8 {
        let mut rng = Rng::new(seed().wrapping_mul(43).wrapping_add(number));
        let objects = generate::world(&mut rng);
        let flows = Candidates::of(&objects).flows(&mut rng, 60);
        let mut steps: Vec<_> = objects.iter().cloned().map(|o| Step::Change(Box::new(Change::Apply(o)))).collect();
        steps.push(Step::Build);
        let mut gone: Vec<_> = objects.iter().map(Object::key).collect();
        gone.retain(|k| k.namespace == "a" || (k.kind == Kind::Namespace && k.name == "a"));
        rng.shuffle(&mut gone);
        for key in gone {
            steps.push(Step::Change(Box::new(Change::Delete(key))));
            if rng.chance(50) {
                steps.push(Step::Build);
            }
        }
        steps.push(Step::Build);
        check(number, steps, &flows);
    }
}

#[test]
fn an_emptied_world_is_as_it_was_in_the_beginning() {
    let mut rng = Rng::new(seed().wrapping_mul(47));
    for _ in 0..setting("PODGATE_WORLDS", 400) / 8 {
        let objects = generate::world(&mut rng);
        let mut index = Index::new(Locality::All);
        objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        index.build();
        let mut keys: Vec<_> = objects.iter().map(Object::key).collect();
        rng.shuffle(&mut keys);
        keys.into_iter().for_each(|key| index.apply(Change::Delete(key)));
        let build = index.build();
        assert!(build.exposure.iter().all(|(_, e)| e.is_none()), "PODGATE_SEED={}: {:?}", seed(), build.exposure);
        assert!(!build.judge_input && index.warnings().is_empty(), "PODGATE_SEED={}", seed());
        for flow in Candidates::of(&objects).flows(&mut rng, 100) {
            let answers = by_engine(&build.snapshot, &flow, NodeOrigin::Address);
            assert!(answers.iter().all(|(_, a)| a.allow && a.rule.is_none()), "PODGATE_SEED={}: {flow}", seed());
        }
    }
}
