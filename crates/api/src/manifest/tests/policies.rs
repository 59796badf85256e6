//! NetworkPolicies of both APIs: what they say, and what the API server would refuse.

use super::*;
use crate::{
    Action, Direction, IpBlock, Kind, LabelSelector, NamespaceMatch, Operator, Peer, Peers, PortMatch, Protocol,
    Requirement,
};

fn label(key: &str, value: &str) -> LabelSelector {
    term(key, Operator::In, &[value])
}

fn term(key: &str, operator: Operator, values: &[&str]) -> LabelSelector {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    LabelSelector::new([Requirement { key: key.to_owned(), operator, values }])
}

fn isolation(text: &str) -> (bool, bool) {
    let policy = policy(text);
    (policy.isolates(Direction::Ingress), policy.isolates(Direction::Egress))
}

/// The ports of the first ingress rule of a policy whose rule has these ports.
fn ports(ports: &str) -> Vec<PortMatch> {
    policy(&v1(&format!("  ingress: [{{ports: {ports}}}]\n"))).ingress.remove(0).ports
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch::Range { protocol, first, last }
}

#[test]
fn a_policy_has_its_key_and_subject() {
    let policy = policy(&v1("  podSelector: {matchLabels: {app: db}}\n"));
    assert_eq!(policy.key.to_string(), "NetworkPolicy shop/p");
    assert_eq!(policy.key.kind, Kind::NetworkPolicy);
    assert_eq!(policy.subject.namespaces, NamespaceMatch::Own);
    assert_eq!(policy.subject.pods, label("app", "db"));
}

#[test]
fn absent_namespace_is_default() {
    for metadata in ["{name: p}", "{name: p, namespace: \"\"}", "{name: p, namespace: null}"] {
        let text = format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {metadata}}}");
        assert_eq!(policy(&text).key.namespace, "default");
    }
}

#[test]
fn absent_policy_types_follow_the_rules() {
    assert_eq!(isolation(&v1("  podSelector: {}\n")), (true, false));
    assert_eq!(isolation(&v1("  egress: [{}]\n")), (true, true));
    for empty in ["  egress: []\n", "  egress: null\n", "  policyTypes: []\n", "  policyTypes:\n  ingress:\n"] {
        assert_eq!(isolation(&v1(empty)), (true, false), "{empty}");
    }
    assert_eq!(
        isolation("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}}"),
        (true, false)
    );
}

#[test]
fn present_policy_types_are_exactly_what_they_say() {
    let both = policy(&v1("  policyTypes: [Egress]\n  ingress: [{}]\n  egress: [{}]\n"));
    assert_eq!((both.isolates_ingress, both.ingress.len()), (false, 0));
    assert_eq!((both.isolates_egress, both.egress.len()), (true, 1));
    assert_eq!(isolation(&v1("  policyTypes: [Ingress]\n  egress: [{}]\n")), (true, false));
    assert_eq!(isolation(&v1("  policyTypes: [Ingress, Egress]\n")), (true, true));
    assert_eq!(isolation(&v1("  policyTypes: [Egress, Egress]\n")), (false, true));
}

#[test]
fn rules_without_effect_are_validated_still() {
    let (line, field, _) = error(&v1("  policyTypes: [Ingress]\n  egress: [{ports: [{port: 0}]}]\n"));
    assert_eq!((line, &*field), (6, "spec.egress[0].ports[0].port"));
}

#[test]
fn empty_lists_count_as_the_api_stores_them() {
    assert_eq!(policy(&v1("  ingress: []\n")).ingress, []);
    assert_eq!(policy(&v1("  ingress: null\n")).ingress, []);
    for rule in ["{}", "{from: []}", "{from: null, ports: null}", "{from: [], ports: []}", "null"] {
        let policy = policy(&v1(&format!("  ingress:\n  - {rule}\n")));
        let rule = &policy.ingress[0];
        assert_eq!((&rule.peers, &*rule.ports, rule.action), (&Peers::Any, &[][..], Action::Accept));
    }
    let text = v1("  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: []}}]}]\n");
    assert_eq!(policy(&text).ingress[0].peers, Peers::Of(vec![block("10.0.0.0/8", &[])]));
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|text| text.parse().unwrap()).collect();
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
}

#[test]
fn peers_of_one_item_and_of_several() {
    let text = "
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
      namespaceSelector: {matchLabels: {team: a}}
    - podSelector: {matchLabels: {app: web}}
    - namespaceSelector: {}
    - podSelector: {}
    - ipBlock: {cidr: 10.0.0.5/8, except: [10.1.0.9/16, 10.2.3.4/32]}
  egress:
  - to: [{namespaceSelector: {matchLabels: {team: b}}}]
";
    let web = label("app", "web");
    let everything = LabelSelector::default();
    let policy = policy(&v1(text));
    let pods = |namespaces: NamespaceMatch, pods: &LabelSelector| Peer::Pods { namespaces, pods: pods.clone() };
    assert_eq!(
        policy.ingress[0].peers,
        Peers::Of(vec![
            pods(NamespaceMatch::Labels(label("team", "a")), &web),
            pods(NamespaceMatch::Own, &web),
            pods(NamespaceMatch::Labels(everything.clone()), &everything),
            pods(NamespaceMatch::Own, &everything),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.2.3.4/32"]),
        ])
    );
    let team_b = pods(NamespaceMatch::Labels(label("team", "b")), &everything);
    assert_eq!(policy.egress[0].peers, Peers::Of(vec![team_b]));
}

#[test]
fn match_expressions_of_every_operator() {
    let text = "
  podSelector:
    matchExpressions:
    - {key: a, operator: In, values: [y1, x1, x1]}
    - {key: b, operator: NotIn, values: [z]}
    - {key: c, operator: Exists}
    - {key: d.io/e, operator: DoesNotExist, values: []}
    - {key: f, operator: In, values: [null]}
";
    let selector = policy(&v1(text)).subject.pods;
    let all = [
        term("a", Operator::In, &["x1", "y1"]),
        term("b", Operator::NotIn, &["z"]),
        term("c", Operator::Exists, &[]),
        term("d.io/e", Operator::DoesNotExist, &[]),
        term("f", Operator::In, &[""]),
    ];
    assert_eq!(selector, LabelSelector::new(all.into_iter().flat_map(|selector| selector.requirements)));
}

#[test]
fn ports_have_the_api_servers_defaults() {
    assert_eq!(ports("[{port: 80}]"), [range(Protocol::Tcp, 80, 80)]);
    assert_eq!(ports("[{port: 80, protocol: null}]"), [range(Protocol::Tcp, 80, 80)]);
    assert_eq!(ports("[{}]"), [range(Protocol::Tcp, 0, 65535)]);
    assert_eq!(ports("[{protocol: UDP}]"), [range(Protocol::Udp, 0, 65535)]);
    assert_eq!(ports("[{protocol: SCTP, port: 1, endPort: 65535}]"), [range(Protocol::Sctp, 1, 65535)]);
    assert_eq!(ports("[{port: 80, endPort: 80}]"), [range(Protocol::Tcp, 80, 80)]);
    assert_eq!(
        ports("[{port: http, protocol: UDP}]"),
        [PortMatch::Named { protocol: Protocol::Udp, name: "http".to_owned() }]
    );
}

#[test]
fn what_the_api_server_refuses_is_an_error_with_line_and_field() {
    for (spec, line, field, message) in [
        (
            "  ingress:\n  - ports:\n    - port: 90\n      endPort: 80\n",
            8,
            "spec.ingress[0].ports[0].endPort",
            "80 < 90",
        ),
        ("  ingress: [{ports: [{endPort: 80}]}]\n", 5, "spec.ingress[0].ports[0].endPort", "needs a port"),
        ("  ingress: [{ports: [{port: http, endPort: 80}]}]\n", 5, "spec.ingress[0].ports[0].endPort", "needs a port"),
        ("  ingress: [{ports: [{port: 1, endPort: 65536}]}]\n", 5, "spec.ingress[0].ports[0].endPort", "65535"),
        ("  ingress: [{ports: [{port: 0}]}]\n", 5, "spec.ingress[0].ports[0].port", "1 to 65535"),
        ("  ingress: [{ports: [{port: 65536}]}]\n", 5, "spec.ingress[0].ports[0].port", "1 to 65535"),
        ("  ingress: [{ports: [{port: '80'}]}]\n", 5, "spec.ingress[0].ports[0].port", "without quotes"),
        ("  ingress: [{ports: [{port: HTTP}]}]\n", 5, "spec.ingress[0].ports[0].port", "port name"),
        ("  ingress: [{ports: [{port: yes}]}]\n", 5, "spec.ingress[0].ports[0].port", "a port's number or name"),
        ("  ingress: [{ports: [{protocol: tcp}]}]\n", 5, "spec.ingress[0].ports[0].protocol", "in capitals"),
        ("  ingress: [{ports: [{protocol: ''}]}]\n", 5, "spec.ingress[0].ports[0].protocol", "in capitals"),
        ("  ingress: [{ports: [{protocol: ICMP}]}]\n", 5, "spec.ingress[0].ports[0].protocol", "no protocol"),
        ("  ingress: [{from: [{}]}]\n", 5, "spec.ingress[0].from[0]", "must name a peer"),
        ("  ingress:\n  - from:\n    -\n", 7, "spec.ingress[0].from[0]", "must name a peer"),
        ("  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]\n", 5, "spec.egress[0].to[0]", "beside"),
        ("  egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]\n", 5, "spec.egress[0].to[0].ipBlock.cidr", "CIDR"),
        ("  egress: [{to: [{ipBlock: {}}]}]\n", 5, "spec.egress[0].to[0].ipBlock.cidr", "CIDR"),
        (
            "  egress:\n  - to:\n    - ipBlock:\n        cidr: 10.0.0.0/8\n        except:\n        - 10.1.0.0/16\n        - 11.0.0.0/16\n",
            11,
            "spec.egress[0].to[0].ipBlock.except[1]",
            "strict part",
        ),
        (
            "  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]\n",
            5,
            "spec.egress[0].to[0].ipBlock.except[0]",
            "strict part",
        ),
        ("  policyTypes: [ingress]\n", 5, "spec.policyTypes[0]", "no policy type"),
        ("  policyTypes: [Ingress, Egress, Egress]\n", 5, "spec.policyTypes", "more than the two"),
        (
            "  podSelector:\n    matchExpressions:\n    - key: a\n      operator: Is\n      values: [b]\n",
            8,
            "spec.podSelector.matchExpressions[0].operator",
            "no operator",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: In}]}\n",
            5,
            "spec.podSelector.matchExpressions[0].values",
            "needs values",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}\n",
            5,
            "spec.podSelector.matchExpressions[0].values",
            "needs values",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}\n",
            5,
            "spec.podSelector.matchExpressions[0].values",
            "takes no values",
        ),
        (
            "  podSelector: {matchExpressions: [{operator: Exists}]}\n",
            5,
            "spec.podSelector.matchExpressions[0].key",
            "label key",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: In, values: [ok, -b]}]}\n",
            5,
            "spec.podSelector.matchExpressions[0].values[1]",
            "label value",
        ),
        ("  podSelector:\n    matchLabels:\n      app: true\n", 7, "spec.podSelector.matchLabels.app", "\"true\""),
        ("  podSelector: {matchLabels: {app: on}}\n", 5, "spec.podSelector.matchLabels.app", "quote it: \"on\""),
        ("  podSelector: {matchLabels: {app: 1}}\n", 5, "spec.podSelector.matchLabels.app", "quote it: \"1\""),
        ("  podSelector: {matchLabels: {on: a}}\n", 5, "spec.podSelector.matchLabels.on", "quote it: \"on\""),
        ("  podSelector: {matchLabels: {a b: c}}\n", 5, "spec.podSelector.matchLabels[a b]", "label key"),
        ("  podselector: {}\n", 5, "spec.podselector", "unknown field; what may stand here: egress, ingress"),
        ("  ingress: [{form: []}]\n", 5, "spec.ingress[0].form", "unknown field"),
        ("  ingress: {}\n", 5, "spec.ingress", "must be a list"),
        ("  ingress: [{ports: [{port: 80, port: 81}]}]\n", 5, "spec.ingress[0].ports[0].port", "twice"),
        ("  podSelector: {}\n  podSelector: {matchLabels: {a: b}}\n", 6, "spec.podSelector", "twice"),
    ] {
        let (found_line, found_field, found_message) = error(&v1(spec));
        assert_eq!((found_line, &*found_field), (line, field), "{spec}");
        assert!(found_message.contains(message), "{spec}: {found_message}");
    }
}

#[test]
fn the_envelope_is_strict_too() {
    for (text, line, field) in [
        (v1("  podSelector: {}\nstate: {}\n"), 6, "state"),
        (v1("  {}\n").replace("name: p,", "name: p, nmespace: x,"), 3, "metadata.nmespace"),
        (v1("  {}\n").replace("name: p,", "name: P,"), 3, "metadata.name"),
        (v1("  {}\n").replace("shop", "shop.a"), 3, "metadata.namespace"),
        (v1("  {}\n").replace("name: p,", "name: p, labels: {a: -z},"), 3, "metadata.labels.a"),
        (v1("  {}\n").replace("name: p,", "name: 1,"), 3, "metadata.name"),
        (v1("  {}\n").replace("name: p,", ""), 3, "metadata.name"),
        (v1("  {}\n").replace("name: p,", "name: p, creationTimestamp: now,"), 3, "metadata.creationTimestamp"),
    ] {
        let (found_line, found_field, _) = error(&text);
        assert_eq!((found_line, &*found_field), (line, field), "{text}");
    }
}

#[test]
fn metadata_of_a_live_cluster_is_welcome() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
  creationTimestamp: 2025-01-01T00:00:00Z
  generation: 1
  managedFields:
  - apiVersion: networking.k8s.io/v1
    fieldsType: FieldsV1
    fieldsV1: {f:spec: {f:policyTypes: {}}}
    manager: kubectl
    operation: Update
    time: '2025-01-01T00:00:00Z'
  name: p
  ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: z}]
  resourceVersion: '1'
  uid: 6f0d0d3e-9b8a-4c0c-9d0e-000000000001
spec: {podSelector: {}}
";
    assert_eq!(policy(text).key.name, "p");
}

#[test]
fn a_status_as_kubernetes_1_24_to_1_27_wrote_it_is_passed_over() {
    for status in ["{}", "null", "{conditions: [{type: Accepted, status: 'True'}]}"] {
        assert_eq!(policy(&v1(&format!("  podSelector: {{}}\nstatus: {status}\n"))).key.name, "p");
        assert_eq!(policy(&legacy(&format!("  podSelector: {{}}\nstatus: {status}\n"))).key.name, "p");
    }
}

#[test]
fn every_complaint_about_a_policy_is_told() {
    let text = v1("  policyTypes: [X]\n  unknown: 1\n  ingress:\n  - from: [{}]\n    ports: [{port: 0}]\n");
    let errors = errors(&text);
    let told: Vec<_> = errors.iter().map(|error| (error.line, &*error.field)).collect();
    assert_eq!(
        told,
        [
            (5, "spec.policyTypes[0]"),
            (6, "spec.unknown"),
            (8, "spec.ingress[0].from[0]"),
            (9, "spec.ingress[0].ports[0].port"),
        ]
    );
    assert!(errors.iter().all(|error| error.object.as_ref().unwrap().to_string() == "NetworkPolicy shop/p"));
}

#[test]
fn an_old_policy_has_ingress_alone_and_isolates_nothing_itself() {
    let text = legacy(
        "  podSelector: {matchLabels: {app: web}}\n  ingress:\n  - from:\n    - podSelector: {matchLabels: {access: \
         'true'}}\n    - namespaceSelector: {}\n    ports: [{port: 80}, {port: dns, protocol: UDP}]\n  - {}\n",
    );
    let policy = policy(&text);
    assert_eq!(policy.key.kind, Kind::LegacyNetworkPolicy);
    assert_eq!((policy.isolates_ingress, policy.isolates_egress), (false, false));
    assert_eq!(policy.ingress.len(), 2);
    let everything = LabelSelector::default();
    assert_eq!(
        policy.ingress[0].peers,
        Peers::Of(vec![
            Peer::Pods { namespaces: NamespaceMatch::Own, pods: label("access", "true") },
            Peer::Pods { namespaces: NamespaceMatch::Labels(everything.clone()), pods: everything },
        ])
    );
    assert_eq!(
        policy.ingress[0].ports,
        [range(Protocol::Tcp, 80, 80), PortMatch::Named { protocol: Protocol::Udp, name: "dns".to_owned() }]
    );
    assert_eq!((&policy.ingress[1].peers, policy.ingress[1].ports.len()), (&Peers::Any, 0));
}

#[test]
fn fields_of_later_times_in_an_old_policy_point_to_the_new_api() {
    for (spec, field) in [
        ("  egress: []\n", "spec.egress"),
        ("  policyTypes: [Ingress]\n", "spec.policyTypes"),
        ("  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]\n", "spec.ingress[0].from[0].ipBlock"),
        ("  ingress: [{ports: [{port: 1, endPort: 2}]}]\n", "spec.ingress[0].ports[0].endPort"),
    ] {
        let (line, found, message) = error(&legacy(spec));
        assert_eq!((line, &*found), (5, field));
        assert!(message.contains("use apiVersion: networking.k8s.io/v1"), "{message}");
    }
    let key = errors(&legacy("  egress: []\n")).remove(0).object.unwrap();
    assert_eq!(key.kind, Kind::LegacyNetworkPolicy);
    assert!(error(&legacy("  ingres: []\n")).2.contains("what may stand here: podSelector, ingress"));
}

#[test]
fn policies_podgate_does_not_enforce_are_errors() {
    for (version, kind, object) in [
        ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy", None),
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy", None),
        ("policy.networking.k8s.io/v1alpha2", "AdminNetworkPolicy", None),
        ("networking.k8s.io/v1", "BaselineAdminNetworkPolicy", None),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", None),
        ("networking.k8s.io/v2", "NetworkPolicy", Some(Kind::NetworkPolicy)),
        ("v1", "NetworkPolicy", Some(Kind::NetworkPolicy)),
        ("extensions/v1", "NetworkPolicy", Some(Kind::LegacyNetworkPolicy)),
        ("projectcalico.org/v3", "NetworkPolicy", None),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\n");
        let errors = errors(&text);
        assert_eq!((errors.len(), errors[0].line, &*errors[0].field), (1, 1, "apiVersion"), "{text}");
        assert!(errors[0].message.contains("podgate does not enforce"), "{}", errors[0].message);
        assert_eq!(errors[0].object.as_ref().map(|key| key.kind), object, "{text}");
    }
}

#[test]
fn a_closed_policy_selects_its_namespace_and_allows_nothing() {
    let key = policy(&v1("  {}\n")).key;
    let closed = PolicySpec::closed(key.clone());
    assert_eq!(closed.key, key);
    assert!(closed.subject.pods.is_everything() && closed.subject.namespaces == NamespaceMatch::Own);
    for direction in Direction::BOTH {
        assert!(closed.isolates(direction) && closed.rules(direction).is_empty());
    }
}
