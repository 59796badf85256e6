//! What is written is what is read: every field of every kind, and byte for byte as in the version's golden file.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use jiff::Timestamp;
use podgate_api::{
    Action, Change, ContainerPort, IpBlock, Kind, LabelSelector, Labels, Namespace, NamespaceMatch, Node, Object,
    ObjectKey, Operator, Peer, Peers, Phase, Pod, PolicySpec, PortMatch, Protocol, Requirement, Rule, Subject, Tier,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::frame::{self, Header, Role};
use super::super::{FORMAT_VERSION, record};
use super::{load_sound, model, settings};

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9./-]{0,20}", any::<String>()]
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(), text(), 0..4)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let operator =
        prop_oneof![Just(Operator::In), Just(Operator::NotIn), Just(Operator::Exists), Just(Operator::DoesNotExist)];
    let requirement = (text(), operator, vec(text(), 0..3));
    vec(requirement.prop_map(|(key, operator, values)| Requirement { key, operator, values }), 0..3)
        .prop_map(LabelSelector::new)
}

fn namespaces() -> impl Strategy<Value = NamespaceMatch> {
    prop_oneof![Just(NamespaceMatch::Own), selector().prop_map(NamespaceMatch::Labels)]
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    vec(any::<IpAddr>(), 0..3)
}

fn net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, n)| IpNet::new(a.into(), n).unwrap().trunc()),
        (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, n)| IpNet::new(a.into(), n).unwrap().trunc()),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (namespaces(), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (net(), vec(net(), 0..3)).prop_map(|(cidr, except)| Peer::Block(IpBlock { cidr, except })),
        selector().prop_map(Peer::Nodes),
    ]
}

fn port() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        (protocol(), any::<u16>(), any::<u16>()).prop_map(|(protocol, first, last)| PortMatch::Range {
            protocol,
            first,
            last
        }),
        (protocol(), text()).prop_map(|(protocol, name)| PortMatch::Named { protocol, name }),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![Just(Action::Accept), Just(Action::Deny), Just(Action::Pass)];
    let peers = prop_oneof![Just(Peers::Any), vec(peer(), 0..3).prop_map(Peers::Of)];
    let rule = (option::of(text()), action, peers, vec(port(), 0..3));
    vec(rule.prop_map(|(name, action, peers, ports)| Rule { name, action, peers, ports }), 0..3)
}

fn pods() -> impl Strategy<Value = Object> {
    let port = (text(), protocol(), any::<u16>());
    let ports = vec(port.prop_map(|(name, protocol, number)| ContainerPort { name, protocol, number }), 0..3);
    let created = option::of((-1_000_000_000..4_000_000_000i64).prop_map(|s| Timestamp::from_second(s).unwrap()));
    let phase = prop_oneof![Just(Phase::Live), Just(Phase::Finished)];
    let identity = (text(), text(), option::of(text()), labels(), created, any::<bool>());
    let place = (option::of(text()), any::<bool>(), phase, addresses(), addresses(), ports);
    (identity, place).prop_map(|((namespace, name, uid, labels, created, terminating), place)| {
        let (node, host_network, phase, addresses, host_addresses, ports) = place;
        Object::Pod(Pod {
            namespace,
            name,
            uid,
            labels,
            created,
            terminating,
            node,
            host_network,
            phase,
            addresses,
            host_addresses,
            ports,
        })
    })
}

const POLICIES: [Kind; 5] = [
    Kind::NetworkPolicy,
    Kind::LegacyNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::AdminNetworkPolicy,
    Kind::BaselineAdminNetworkPolicy,
];

fn policies() -> impl Strategy<Value = Object> {
    let key = (proptest::sample::select(POLICIES.as_slice()), text(), text());
    let key = key.prop_map(|(kind, namespace, name)| ObjectKey { kind, namespace, name });
    let tier = prop_oneof![Just(Tier::Admin), Just(Tier::NetworkPolicy), Just(Tier::Baseline)];
    let subject = (namespaces(), selector()).prop_map(|(namespaces, pods)| Subject { namespaces, pods });
    let order = (key, tier, any::<i32>(), subject, vec(text(), 0..2));
    let effect = (any::<bool>(), any::<bool>(), rules(), rules());
    (order, effect).prop_map(|((key, tier, priority, subject, caveats), effect)| {
        let (isolates_ingress, isolates_egress, ingress, egress) = effect;
        Object::Policy(PolicySpec {
            key,
            tier,
            priority,
            subject,
            isolates_ingress,
            isolates_egress,
            ingress,
            egress,
            caveats,
        })
    })
}

fn objects() -> impl Strategy<Value = Object> {
    prop_oneof![
        pods(),
        policies(),
        (text(), labels(), any::<bool>()).prop_map(|(name, labels, ingress_default_deny)| {
            Object::Namespace(Namespace { name, labels, ingress_default_deny })
        }),
        (text(), labels(), addresses(), vec(net(), 0..3)).prop_map(|(name, labels, addresses, pod_cidrs)| {
            Object::Node(Node { name, labels, addresses, pod_cidrs })
        }),
    ]
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![objects().prop_map(Change::Apply), objects().prop_map(|o| Change::Delete(o.key()))]
}

proptest! {
    #[test]
    fn every_change_is_read_as_it_was_written(changes in vec(changes(), 0..6)) {
        let mut bytes = Vec::new();
        for change in &changes {
            record::push(&mut bytes, change).unwrap();
        }
        let (mut read, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let (record, after) = record::split(rest).unwrap();
            read.push(record.change().unwrap());
            rest = after;
        }
        prop_assert_eq!(read, changes);
    }

    #[test]
    fn a_record_of_any_bytes_is_refused_or_read_but_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok((record, rest)) = record::split(&bytes) {
            prop_assert_eq!(record.raw.len() + rest.len(), bytes.len());
            let _ = record.change();
        }
    }
}

/// One object of each kind, in which every variant of every type is there, and no two fields are alike.
fn samples() -> Vec<Object> {
    let label = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let require = |operator, key: &str, values: &[&str]| Requirement {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    let everything = LabelSelector::new([
        require(Operator::In, "a", &["1", "2"]),
        require(Operator::NotIn, "b", &["3"]),
        require(Operator::Exists, "c", &[]),
        require(Operator::DoesNotExist, "d", &[]),
    ]);
    let one = LabelSelector::new([require(Operator::In, "app", &["web"])]);
    let rule = |name: Option<&str>, action, peers, ports| Rule { name: name.map(str::to_owned), action, peers, ports };
    let range = |protocol, first, last| PortMatch::Range { protocol, first, last };
    let named = |protocol, name: &str| PortMatch::Named { protocol, name: name.to_owned() };
    let ingress = vec![
        rule(None, Action::Accept, Peers::Any, vec![]),
        rule(
            Some("first"),
            Action::Deny,
            Peers::Of(vec![
                Peer::Pods { namespaces: NamespaceMatch::Own, pods: one.clone() },
                Peer::Pods { namespaces: NamespaceMatch::Labels(one.clone()), pods: everything.clone() },
            ]),
            vec![range(Protocol::Tcp, 80, 90), named(Protocol::Udp, "dns"), range(Protocol::Sctp, 0, 65535)],
        ),
    ];
    let egress = vec![rule(
        Some("second"),
        Action::Pass,
        Peers::Of(vec![
            Peer::Block(IpBlock {
                cidr: "10.0.0.0/8".parse().unwrap(),
                except: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
            }),
            Peer::Block(IpBlock { cidr: "2001:db8::/32".parse().unwrap(), except: vec![] }),
            Peer::Nodes(one.clone()),
        ]),
        vec![],
    )];
    let mut objects = vec![
        Object::Namespace(Namespace {
            name: "shop".to_owned(),
            labels: label("team", "red"),
            ingress_default_deny: true,
        }),
        Object::Node(Node {
            name: "node-1".to_owned(),
            labels: label("zone", "a"),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        }),
        Object::Pod(Pod {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: Some("0b9c".to_owned()),
            labels: label("app", "web"),
            created: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            terminating: true,
            node: Some("node-1".to_owned()),
            host_network: false,
            phase: Phase::Finished,
            addresses: vec!["10.244.0.7".parse().unwrap(), "fd00:1::7".parse().unwrap()],
            host_addresses: vec!["192.0.2.1".parse().unwrap()],
            ports: vec![
                ContainerPort { name: "http".to_owned(), protocol: Protocol::Tcp, number: 8080 },
                ContainerPort { name: "dns".to_owned(), protocol: Protocol::Udp, number: 53 },
            ],
        }),
        Object::Pod(Pod { phase: Phase::Live, host_network: true, ..Pod::default() }),
    ];
    let tiers = [Tier::NetworkPolicy, Tier::NetworkPolicy, Tier::Admin, Tier::Admin, Tier::Baseline];
    for (kind, tier) in POLICIES.into_iter().zip(tiers) {
        objects.push(Object::Policy(PolicySpec {
            key: ObjectKey { kind, namespace: "shop".to_owned(), name: "allow".to_owned() },
            tier,
            priority: -300,
            subject: Subject { namespaces: NamespaceMatch::Labels(one.clone()), pods: everything.clone() },
            isolates_ingress: true,
            isolates_egress: false,
            ingress: ingress.clone(),
            egress: egress.clone(),
            caveats: vec!["spec.egress[0]: ...".to_owned()],
        }));
    }
    objects
}

/// A snapshot file as this version writes it. An object that was added to, or changed, must not be read from a file of
/// before: it would be read as something else, or not at all.
#[test]
fn the_format_is_the_one_that_its_version_stands_for() {
    let mut records = Vec::new();
    let changes: Vec<_> = samples().into_iter().map(Change::Apply).collect();
    changes.iter().for_each(|change| record::push(&mut records, change).unwrap());
    let header = Header { role: Role::Snapshot, generation: 7, identity: "cluster/node".to_owned() };
    let mut bytes = frame::prologue(&header).unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_micros(1_790_000_000_123_456);
    frame::push(&mut bytes, &records, true, written).unwrap();

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/saved/tests/format-v{FORMAT_VERSION}.bin"));
    // Never over one that is there: then the version is to be raised instead.
    if std::env::var_os("PODGATE_WRITE_GOLDEN").is_some() && !golden.exists() {
        fs::write(&golden, &bytes).unwrap();
    }
    let kept = fs::read(&golden).expect("no golden file for this version: PODGATE_WRITE_GOLDEN=1 cargo test writes it");
    assert!(
        bytes == kept,
        "what is written to disk has changed: raise FORMAT_VERSION in saved/frame.rs, so that files of before are not \
         misread, and run this test with PODGATE_WRITE_GOLDEN=1"
    );

    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    fs::write(directory.path().join("snapshot"), &kept).unwrap();
    fs::write(directory.path().join("journal"), frame::prologue(&Header { role: Role::Journal, ..header }).unwrap())
        .unwrap();
    assert_eq!(load_sound(&settings), model(&changes));
    assert_eq!(super::load(&settings).world.unwrap().saved(), written);
}
