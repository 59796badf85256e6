//! The small cluster that the tests are about, and how a flow is asked of both evaluators.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_api::Protocol::{Tcp, Udp};
use podgate_api::{Change, Direction, Object, ObjectKey, manifest};
use podgate_engine::{NodeOrigin, Snapshot, Verdict, protocol};
use podgate_policy::reference::{self, Flow};
use podgate_policy::{Index, Locality, World};

use crate::common::{address, namespace, node, pod};

/// Objects in both evaluators.
pub struct Cluster {
    pub world: World,
    pub index: Index,
    pub snapshot: Arc<Snapshot>,
}

/// Two nodes, namespaces `shop` (team=a) and `lab` (team=b), and in them:
///
/// | pod | labels | addresses | node | named ports |
/// |---|---|---|---|---|
/// | shop/web | app=web, tier=front | 10.1.0.10, fd00:1::10 | n1 | http TCP 8080 |
/// | shop/db | app=db, tier=back | 10.1.0.11, fd00:1::11 | n1 | sql TCP 5432, dns UDP 53, dns TCP 5353 |
/// | shop/job | | 10.1.0.12 | n2 | |
/// | shop/proxy | app=web, hostNetwork | 10.0.0.2 | n2 | http TCP 8080 |
/// | lab/web | app=web | 10.2.0.10, fd00:2::10 | n2 | http TCP 80 |
/// | lab/tool | app=tool | 10.2.0.11 | n1 | |
pub fn objects() -> Vec<Object> {
    objects![
        node("n1").at("10.0.0.1").at("fd00::1").pods_in("10.1.0.0/24"),
        node("n2").at("10.0.0.2").at("fd00::2").pods_in("10.2.0.0/24"),
        namespace("shop").label("team", "a"),
        namespace("lab").label("team", "b"),
        pod("shop/web")
            .label("app", "web")
            .label("tier", "front")
            .at("10.1.0.10")
            .at("fd00:1::10")
            .on("n1")
            .port("http", Tcp, 8080),
        pod("shop/db")
            .label("app", "db")
            .label("tier", "back")
            .at("10.1.0.11")
            .at("fd00:1::11")
            .on("n1")
            .port("sql", Tcp, 5432)
            .port("dns", Udp, 53)
            .port("dns", Tcp, 5353),
        pod("shop/job").at("10.1.0.12").on("n2"),
        pod("shop/proxy").label("app", "web").host_network().at("10.0.0.2").on("n2").port("http", Tcp, 8080),
        pod("lab/web").label("app", "web").at("10.2.0.10").at("fd00:2::10").on("n2").port("http", Tcp, 80),
        pod("lab/tool").label("app", "tool").at("10.2.0.11").on("n1"),
    ]
}

/// The objects of a manifest, all of which must be valid.
#[track_caller]
pub fn manifests(text: &str) -> Vec<Object> {
    let parsed = manifest::parse("test.yaml", text);
    assert!(parsed.errors.is_empty(), "{:?}\nin\n{text}", parsed.errors);
    assert!(!parsed.objects.is_empty(), "no object in\n{text}");
    parsed.objects.into_iter().map(|o| o.object).collect()
}

/// The errors of a manifest, at least one of which there must be, as they are printed.
#[track_caller]
pub fn refused(text: &str) -> String {
    let parsed = manifest::parse("test.yaml", text);
    assert!(!parsed.errors.is_empty(), "nothing wrong with\n{text}");
    parsed.errors.iter().map(|e| format!("{e}\n")).collect()
}

/// A `networking.k8s.io/v1` NetworkPolicy as a manifest, from the lines of its spec.
pub fn v1(name: &str, spec: &str) -> String {
    network_policy("networking.k8s.io/v1", name, spec)
}

/// The same of `extensions/v1beta1`.
pub fn v1beta1(name: &str, spec: &str) -> String {
    network_policy("extensions/v1beta1", name, spec)
}

fn network_policy(api: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: {api}\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n{spec}"
    )
}

/// The cluster with these manifests applied.
#[track_caller]
pub fn cluster(text: &str) -> Cluster {
    Cluster::of([objects(), manifests(text)].concat())
}

/// The cluster with these objects applied.
pub fn cluster_with(more: Vec<Object>) -> Cluster {
    Cluster::of([objects(), more].concat())
}

impl Cluster {
    pub fn of(objects: Vec<Object>) -> Self {
        let mut index = Index::new(Locality::All);
        objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        let snapshot = index.build().snapshot;
        Cluster { world: objects.into_iter().collect(), index, snapshot }
    }

    /// Applies objects and builds.
    pub fn apply(&mut self, objects: Vec<Object>) {
        self.change(objects.into_iter().map(Change::Apply));
    }

    /// Deletes an object and builds.
    pub fn delete(&mut self, key: ObjectKey) {
        self.change([Change::Delete(key)]);
    }

    fn change(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.world.apply(change.clone());
            self.index.apply(change);
        }
        self.snapshot = self.index.build().snapshot;
    }

    /// Ingress of `a -> b TCP 80` is `allow RULE`, `deny RULE`, or `allow` where no rule decided. An end is an address,
    /// `namespace/pod` (its first address) or `namespace/pod#6` (its first IPv6 address); `TCP ?` stands for a packet
    /// that does not show its port.
    #[track_caller]
    pub fn ingress(&self, flow: &str, expected: &str) {
        self.check(flow, Direction::Ingress, expected);
    }

    /// The same for egress.
    #[track_caller]
    pub fn egress(&self, flow: &str, expected: &str) {
        self.check(flow, Direction::Egress, expected);
    }

    /// The verdict of both ends together: `allow` or `deny`.
    #[track_caller]
    pub fn verdict(&self, flow: &str, expected: &str) {
        let asked = self.flow(flow);
        let judgement = self.snapshot.judge(&asked.to_engine(), NodeOrigin::Address);
        let engine = judgement.verdict() == Verdict::Accept;
        assert_eq!(word(engine), expected, "engine: {flow}");
        let reference = Direction::BOTH.iter().all(|d| reference::judge(&self.world, &asked, *d).allows());
        assert_eq!(word(reference), expected, "reference: {flow}");
    }

    #[track_caller]
    fn check(&self, flow: &str, direction: Direction, expected: &str) {
        let asked = self.flow(flow);
        let cause = reference::judge(&self.world, &asked, direction);
        let reference = answer(cause.allows(), cause.rule());
        assert_eq!(reference, expected, "reference: {flow}, {}", direction.as_str());

        let judgement = self.snapshot.judge(&asked.to_engine(), NodeOrigin::Address);
        let decision = match direction {
            Direction::Ingress => judgement.ingress,
            Direction::Egress => judgement.egress,
        };
        let rule = decision.rule().and_then(|id| self.snapshot.rule(id)).map(|r| r.name.to_string());
        let engine = answer(decision.verdict() == Verdict::Accept, rule.as_deref());
        assert_eq!(engine, expected, "engine: {flow}, {} ({:?})", direction.as_str(), decision.cause);
    }

    /// A flow from text.
    #[track_caller]
    pub fn flow(&self, text: &str) -> Flow {
        let (source, rest) = text.split_once(" -> ").expect("a -> b PROTOCOL [PORT]");
        let mut words = rest.split_whitespace();
        let destination = words.next().expect("a destination");
        let protocol = match words.next().expect("a protocol") {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            "ICMP" => protocol::ICMP,
            "ICMPv6" => protocol::ICMPV6,
            "GRE" => 47,
            other => panic!("protocol {other}?"),
        };
        let port = words.next().filter(|p| *p != "?").map(|p| p.parse().expect("a port"));
        Flow { source: self.end(source), destination: self.end(destination), protocol, port }
    }

    #[track_caller]
    fn end(&self, text: &str) -> IpAddr {
        let Some((namespace, name)) = text.split_once('/') else { return address(text) };
        let (name, six) = name.strip_suffix("#6").map_or((name, false), |name| (name, true));
        let pod = &self.world.pods[&(namespace.to_owned(), name.to_owned())];
        *pod.addresses.iter().find(|a| !six || a.is_ipv6()).expect("an address")
    }
}

fn answer(allow: bool, rule: Option<&str>) -> String {
    rule.map_or(word(allow).to_owned(), |rule| format!("{} {rule}", word(allow)))
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}
