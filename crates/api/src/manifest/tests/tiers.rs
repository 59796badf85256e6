//! Policies of the cluster tiers: what they say, what their CRDs would refuse, and what is closed where they can't be
//! understood.

use super::*;
use crate::{
    Action, IpBlock, Kind, LabelSelector, NamespaceMatch, Operator, Peer, Peers, PortMatch, Protocol, Requirement,
    Rule, Tier,
};

fn label(key: &str, value: &str) -> LabelSelector {
    LabelSelector::new([Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }])
}

fn namespaces(key: &str, value: &str) -> NamespaceMatch {
    NamespaceMatch::Labels(label(key, value))
}

fn block(cidr: &str) -> Peer {
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() })
}

/// A ClusterNetworkPolicy of the Admin tier about every pod whose spec has these lines besides, from line 8 on.
fn cnp(lines: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  \
         tier: Admin\n  priority: 5\n  subject: {{namespaces: {{}}}}\n{lines}"
    )
}

/// An AdminNetworkPolicy, as [`cnp`], from line 7 on.
fn anp(lines: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  \
         priority: 5\n  subject: {{namespaces: {{}}}}\n{lines}"
    )
}

/// As [`anp`], from line 6 on.
fn banp(lines: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: \
         default}}\nspec:\n  subject: {{namespaces: {{}}}}\n{lines}"
    )
}

/// A text's policy, its complaints and whatever it is in force with.
fn with_errors(text: &str) -> (PolicySpec, Vec<ManifestError>) {
    let Parsed { mut objects, errors } = parse("t.yaml", text);
    assert_eq!(objects.len(), 1, "{text}\n{errors:#?}");
    match objects.remove(0).object {
        Object::Policy(policy) => (policy, errors),
        other => panic!("{other:?}"),
    }
}

fn matches_nothing(rule: &Rule) -> bool {
    rule.action == Action::Accept && rule.peers == Peers::Of(Vec::new())
}

fn denies_everything(rule: &Rule) -> bool {
    rule.action == Action::Deny && rule.peers == Peers::Any && rule.ports.is_empty()
}

#[test]
fn a_cluster_network_policy_says_what_it_says() {
    let text = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: rules}
spec:
  tier: Baseline
  priority: 1000
  subject:
    pods:
      namespaceSelector: {matchLabels: {team: a}}
      podSelector: {matchLabels: {app: db}}
  ingress:
  - name: from-web
    action: Accept
    from:
    - pods:
        namespaceSelector: {matchLabels: {team: b}}
        podSelector: {matchLabels: {app: web}}
    - namespaces: {matchLabels: {team: c}}
    protocols:
    - tcp: {destinationPort: {number: 80}}
    - udp: {destinationPort: {range: {start: 1, end: 65535}}}
    - sctp: {destinationPort: {number: 9}}
    - destinationNamedPort: http
  - action: Pass
    from: [{pods: {podSelector: {}}}]
  egress:
  - action: Deny
    to:
    - networks: [10.0.0.5/8, 'fd00::/8']
    - nodes: {matchLabels: {role: db}}
    - nodes: {}
status: {conditions: []}
";
    let policy = policy(text);
    assert_eq!(policy.key.to_string(), "ClusterNetworkPolicy rules");
    assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 1000));
    assert_eq!((policy.isolates_ingress, policy.isolates_egress), (false, false));
    assert_eq!((&policy.subject.namespaces, &policy.subject.pods), (&namespaces("team", "a"), &label("app", "db")));
    let [first, second] = &*policy.ingress else { panic!("{:?}", policy.ingress) };
    assert_eq!((first.name.as_deref(), first.action), (Some("from-web"), Action::Accept));
    let everything = LabelSelector::default();
    assert_eq!(
        first.peers,
        Peers::Of(vec![
            Peer::Pods { namespaces: namespaces("team", "b"), pods: label("app", "web") },
            Peer::Pods { namespaces: namespaces("team", "c"), pods: everything.clone() },
        ])
    );
    let range = |protocol, first, last| PortMatch::Range { protocol, first, last };
    let named = |protocol| PortMatch::Named { protocol, name: "http".into() };
    assert_eq!(
        first.ports,
        [
            range(Protocol::Tcp, 80, 80),
            range(Protocol::Udp, 1, 65535),
            range(Protocol::Sctp, 9, 9),
            named(Protocol::Tcp),
            named(Protocol::Udp),
            named(Protocol::Sctp),
        ]
    );
    assert_eq!((&second.name, second.action, second.ports.len()), (&None, Action::Pass, 0));
    let anybody = NamespaceMatch::Labels(everything.clone());
    assert_eq!(second.peers, Peers::Of(vec![Peer::Pods { namespaces: anybody, pods: everything.clone() }]));
    let to = vec![block("10.0.0.0/8"), block("fd00::/8"), Peer::Nodes(label("role", "db")), Peer::Nodes(everything)];
    assert_eq!((policy.egress[0].action, &policy.egress[0].peers), (Action::Deny, &Peers::Of(to)));
    assert_eq!(policy.caveats, [""; 0]);
}

#[test]
fn the_older_kinds_say_the_same_in_their_own_words() {
    let rules = "  ingress:
  - name: a
    action: Allow
    from: [{pods: {namespaceSelector: {}, podSelector: {}}}]
    ports: [{portNumber: {port: 80}}, {portRange: {protocol: UDP, start: 5, end: 9}}, {namedPort: http}]
  egress:
  - {action: Deny, to: [{networks: [10.0.0.0/8]}], ports: [{portNumber: {protocol: SCTP, port: 1}}]}
";
    let admin = policy(&anp(rules));
    assert_eq!((admin.key.kind, admin.tier, admin.priority), (Kind::AdminNetworkPolicy, Tier::Admin, 5));
    let baseline = policy(&banp(rules));
    assert_eq!(baseline.key.to_string(), "BaselineAdminNetworkPolicy default");
    assert_eq!((baseline.tier, baseline.priority), (Tier::Baseline, PolicySpec::LAST));
    for policy in [admin, baseline] {
        assert_eq!((policy.ingress[0].action, policy.ingress[0].name.as_deref()), (Action::Accept, Some("a")));
        assert_eq!(policy.ingress[0].ports[0], PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 });
        assert_eq!(policy.ingress[0].ports[1], PortMatch::Range { protocol: Protocol::Udp, first: 5, last: 9 });
        assert_eq!(policy.ingress[0].ports.len(), 5);
        assert_eq!(policy.egress[0].ports, [PortMatch::Range { protocol: Protocol::Sctp, first: 1, last: 1 }]);
    }
}

#[test]
fn a_namespace_in_the_metadata_counts_for_nothing() {
    let text = cnp("").replace("{name: p}", "{name: p, namespace: shop}");
    assert_eq!(policy(&text).key.namespace, "");
}

#[test]
fn lists_of_cluster_policies_are_read() {
    let text = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicyList
items:
- metadata: {name: a}
  spec: {tier: Admin, priority: 0, subject: {namespaces: {}}}
- metadata: {name: b}
  spec: {tier: Baseline, priority: 0, subject: {namespaces: {}}}
";
    assert_eq!(objects(text).len(), 2);
}

#[test]
fn rules_that_their_names_do_not_tell_apart_go_by_their_number() {
    let rule = |name: &str| format!("  - {{name: {name}, action: Deny, from: [{{namespaces: {{}}}}]}}\n");
    let names = ["a", "a", "'2'", "default-deny", "\"a\\nb\"", "a/b"].map(rule).concat();
    let policy = policy(&cnp(&format!("  ingress:\n{names}")));
    let names: Vec<_> = policy.ingress.iter().map(|rule| rule.name.as_deref()).collect();
    assert_eq!(names, [Some("a"), None, None, None, None, Some("a/b")]);
}

/// A text with one complaint, at this line and field.
#[track_caller]
fn assert_error(text: &str, line: usize, field: &str, message: &str) -> Option<PolicySpec> {
    let Parsed { objects, errors } = parse("t.yaml", text);
    let told: Vec<_> = errors.iter().map(|e| (e.line, &*e.field)).collect();
    assert_eq!(told, [(line, field)], "{text}\n{errors:#?}");
    assert!(errors[0].message.contains(message), "{text}\n{}", errors[0].message);
    objects.into_iter().find_map(|located| if let Object::Policy(p) = located.object { Some(p) } else { None })
}

#[test]
fn a_rule_that_the_crd_would_refuse_is_an_error_and_closed() {
    let in_rule = |rule: &str, field: &str, message: &str| {
        for (action, closed) in
            [("Accept", matches_nothing as fn(&Rule) -> bool), ("Deny", denies_everything), ("Pass", denies_everything)]
        {
            let rules =
                format!("  egress:\n  - {{action: {action}, {rule}}}\n  - {{action: Deny, to: [{{nodes: {{}}}}]}}\n");
            let policy = assert_error(&cnp(&rules), 9, &format!("spec.egress[0]{field}"), message).unwrap();
            assert!(closed(&policy.egress[0]), "{rules}: {:?}", policy.egress[0]);
            assert_eq!(policy.egress[1].peers, Peers::Of(vec![Peer::Nodes(LabelSelector::default())]), "{rules}");
            assert_eq!((policy.tier, policy.priority, policy.ingress.len()), (Tier::Admin, 5, 0));
        }
    };
    in_rule("", ".to", "at least one peer");
    in_rule("to: []", ".to", "at least one peer");
    in_rule("to: {}", ".to", "must be a list");
    in_rule("to: [x]", ".to[0]", "must be a mapping");
    in_rule("to: [{namespaces: {}, nodes: {}}]", ".to[0]", "exactly one");
    in_rule("to: [{namespaces: {}, newer: {}}]", ".to[0]", "exactly one");
    in_rule("to: [{namespaces: {matchLabel: {}}}]", ".to[0].namespaces.matchLabel", "unknown field");
    in_rule("to: [{namespaces: {matchLabels: {a: on}}}]", ".to[0].namespaces.matchLabels.a", "quote it");
    in_rule("to: [{pods: {namespaceSelector: {}}}]", ".to[0].pods.podSelector", "is missing");
    in_rule("to: [{pods: {podSelector: {}, names: {}}}]", ".to[0].pods.names", "unknown field");
    in_rule("to: [{networks: [10.0.0.0]}]", ".to[0].networks[0]", "CIDR");
    in_rule("to: [{networks: []}]", ".to[0].networks", "1 to 25");
    in_rule("to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]", ".to[0].networks[1]", "twice");
    in_rule("from: [{namespaces: {}}], to: [{namespaces: {}}]", ".from", "unknown field");
    in_rule("to: [{namespaces: {}}], ports: []", ".ports", "what may stand here: name, action, to, protocols");
    in_rule("to: [{namespaces: {}}], protocols: []", ".protocols", "1 to 25");
    let ports = |item: &str, field: &str, message: &str| {
        in_rule(&format!("to: [{{namespaces: {{}}}}], protocols: [{item}]"), &format!(".protocols[0]{field}"), message);
    };
    ports("{tcp: {}}", ".tcp.destinationPort", "is missing");
    ports("{tcp: {destinationPort: {}}}", ".tcp.destinationPort", "either number or range");
    ports("{tcp: {destinationPort: {number: 0}}}", ".tcp.destinationPort.number", "1 to 65535");
    ports("{tcp: {destinationPort: {number: '80'}}}", ".tcp.destinationPort.number", "leave the quotes out");
    ports("{udp: {destinationPort: {range: {start: 9, end: 8}}}}", ".udp.destinationPort.range.end", "greater than");
    ports("{udp: {destinationPort: {range: {start: 9, end: 9}}}}", ".udp.destinationPort.range.end", "greater than");
    ports("{udp: {destinationPort: {range: {start: 9}}}}", ".udp.destinationPort.range.end", "is missing");
    ports("{tcp: {destinationPort: {number: 1}, flags: 2}}", ".tcp.flags", "unknown field");
    ports("{tcp: {destinationPort: {number: 1}}, destinationNamedPort: a}", "", "exactly one");
    ports("{destinationNamedPort: '80'}", ".destinationNamedPort", "without quotes");
    let named = "protocols: [{destinationNamedPort: http}]";
    for peer in ["networks: [10.0.0.0/8]", "nodes: {}"] {
        in_rule(&format!("to: [{{{peer}}}], {named}"), ".protocols", "only pods have named ports");
    }
}

#[test]
fn every_kind_has_its_own_actions_ports_and_peers() {
    let rule = |rest: &str| format!("  egress: [{{{rest}, to: [{{namespaces: {{}}}}]}}]\n");
    let deny = |text: &str, line, message: &str| {
        let policy = assert_error(text, line, "spec.egress[0].action", message).unwrap();
        assert!(denies_everything(&policy.egress[0]));
    };
    deny(&cnp(&rule("action: Allow")), 8, "Accept, Deny or Pass");
    deny(&anp(&rule("action: Accept")), 7, "Allow, Deny or Pass");
    deny(&banp(&rule("action: Pass")), 6, "Allow or Deny");
    deny(&cnp(&rule("name: a")), 8, "is missing");
    assert_error(&anp(&rule("action: Deny, protocols: []")), 7, "spec.egress[0].protocols", "name, action, to, ports");
    let ports = |item: &str, field: &str, message: &str| {
        let text = anp(&rule(&format!("action: Deny, ports: [{item}]")));
        assert_error(&text, 7, &format!("spec.egress[0].ports[0]{field}"), message);
    };
    ports("{portNumber: {port: 80, protocol: tcp}}", ".portNumber.protocol", "in capitals");
    ports("{portRange: {start: 80, end: 79}}", ".portRange.end", "greater");
    ports("{portNumber: {port: 80}, namedPort: a}", "", "exactly one");
    assert_error(
        &anp("  ingress: [{action: Deny, from: [{pods: {podSelector: {}}}]}]\n"),
        7,
        "spec.ingress[0].from[0].pods.namespaceSelector",
        "is missing",
    );
    let name = "metadata.name";
    assert_error(&banp("").replace("default}", "other}"), 3, name, "must be default");
}

#[test]
fn a_peer_of_a_newer_api_closes_its_rule_and_is_a_caveat() {
    for peer in ["{}", "null", "{serviceAccounts: {}}", "{networks: null}"] {
        let peers = format!("[{{namespaces: {{}}}}, {peer}]");
        let text = cnp(&format!(
            "  egress:\n  - {{name: x, action: Accept, to: {peers}}}\n  - {{action: Deny, to: {peers}, protocols: [{{tcp: \
             {{destinationPort: {{number: 80}}}}}}]}}\n  - {{action: Pass, to: {peers}}}\n"
        ));
        let policy = policy(&text);
        assert!(matches_nothing(&policy.egress[0]), "{text}");
        assert_eq!(policy.egress[0].name.as_deref(), Some("x"));
        assert!(denies_everything(&policy.egress[1]) && denies_everything(&policy.egress[2]), "{text}");
        let [first, second, third] = &*policy.caveats else { panic!("{:?}", policy.caveats) };
        assert!(first.starts_with("spec.egress[0].to[1]: ") && first.ends_with("the rule matches nothing"), "{first}");
        assert!(second.starts_with("spec.egress[1].to[1]: ") && third.ends_with("the rule denies everything"));
    }
    // In ingress rules there are fewer.
    let policy = policy(&cnp("  ingress: [{action: Accept, from: [{networks: [10.0.0.0/8]}]}]\n"));
    assert!(matches_nothing(&policy.ingress[0]) && policy.caveats[0].contains("(networks)"), "{:?}", policy.caveats);
}

#[test]
fn a_protocol_of_a_newer_api_closes_its_rule_and_is_a_caveat() {
    let rule =
        |action| format!("{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{{icmp: {{type: 8}}}}]}}");
    let policy = policy(&cnp(&format!("  ingress: [{}, {}]\n", rule("Accept"), rule("Deny"))));
    assert!(matches_nothing(&policy.ingress[0]) && denies_everything(&policy.ingress[1]));
    assert!(policy.caveats[0].starts_with("spec.ingress[0].protocols[0]: ") && policy.caveats[0].contains("icmp"));
}

#[test]
fn domain_names_match_nothing_yet_and_are_a_caveat() {
    let to =
        |names: &str| format!("  egress: [{{action: Accept, to: [{{domainNames: [{names}]}}, {{nodes: {{}}}}]}}]\n");
    for text in [cnp(&to("example.com, '*.example.com.'")), anp(&to("a.b-c_d.e").replace("Accept", "Allow"))] {
        let policy = policy(&text);
        assert_eq!(policy.egress[0].peers, Peers::Of(vec![Peer::Nodes(LabelSelector::default())]));
        assert!(policy.caveats[0].starts_with("spec.egress[0].to[0].domainNames: "), "{:?}", policy.caveats);
    }
    for wrong in ["com", "'*.'", "a..b", "'*.*.a.b'", "-a.b", "a b.c"] {
        assert_error(&cnp(&to(wrong)), 8, "spec.egress[0].to[0].domainNames[0]", "no valid domain name");
    }
    let denied = assert_error(
        &cnp(&to("example.com").replace("Accept", "Deny")),
        8,
        "spec.egress[0].to[0].domainNames",
        "only stand in rules with action Accept",
    );
    assert!(denies_everything(&denied.unwrap().egress[0]));
    let baseline = policy(&banp(&to("example.com").replace("Accept", "Allow")));
    assert!(matches_nothing(&baseline.egress[0]) && baseline.caveats[0].contains("(domainNames)"));
}

#[test]
fn a_policy_whose_place_is_not_clear_denies_in_the_directions_it_is_about() {
    let rules = "  ingress: [{action: Accept, from: [{namespaces: {}}]}]\n";
    let text = cnp(rules);
    for (text, line, field, message) in [
        (text.replace("tier: Admin", "tier: admin"), 5, "spec.tier", "Admin or Baseline"),
        (text.replace("tier: Admin", "tier: NetworkPolicy"), 5, "spec.tier", "Admin or Baseline"),
        (text.replace("  tier: Admin\n", ""), 4, "spec.tier", "is missing"),
        (text.replace("priority: 5", "priority: high"), 6, "spec.priority", "whole number"),
        (text.replace("  priority: 5\n", ""), 4, "spec.priority", "is missing"),
    ] {
        let policy = assert_error(&text, line, field, message).unwrap();
        assert!(policy.ingress.len() == 1 && denies_everything(&policy.ingress[0]), "{text}");
        assert_eq!((policy.tier, policy.egress.len()), (Tier::Admin, 0), "{text}");
    }
}

#[test]
fn an_unknown_or_doubled_field_of_the_spec_closes_both_directions() {
    for (lines, line, field) in [
        ("  ingres: []\n", 8, "spec.ingres"),
        ("  ingress: []\n  ingress: []\n", 9, "spec.ingress"),
        ("  priority: 6\n", 8, "spec.priority"),
    ] {
        let policy = assert_error(&cnp(lines), line, field, "").unwrap();
        assert!(denies_everything(&policy.ingress[0]) && denies_everything(&policy.egress[0]), "{lines}");
    }
    let policy = assert_error(&banp("  priority: 6\n"), 6, "spec.priority", "unknown field").unwrap();
    assert_eq!(policy.tier, Tier::Baseline);
    let policy = assert_error(&cnp("  ingress: {}\n"), 8, "spec.ingress", "must be a list").unwrap();
    assert!(denies_everything(&policy.ingress[0]) && policy.egress.is_empty());
}

#[test]
fn a_doubled_field_closes_its_rule() {
    let text = cnp("  ingress: [{action: Accept, from: [{namespaces: {matchLabels: {a: b, a: c}}}]}]\n");
    let policy = assert_error(&text, 8, "spec.ingress[0].from[0].namespaces.matchLabels.a", "twice").unwrap();
    assert!(matches_nothing(&policy.ingress[0]));
}

#[test]
fn a_policy_is_in_force_as_written_where_only_a_bound_is_passed() {
    let (policy, errors) = with_errors(&cnp("").replace("priority: 5", "priority: 1001"));
    assert_eq!((policy.priority, errors[0].line, &*errors[0].field), (1001, 6, "spec.priority"));
    let rule = "  - {action: Accept, from: [{namespaces: {}}]}\n";
    let (policy, errors) = with_errors(&cnp(&format!("  ingress:\n{}", rule.repeat(26))));
    assert_eq!((policy.ingress.len(), errors[0].line, &*errors[0].field), (26, 8, "spec.ingress"));
    assert!(!policy.ingress.iter().any(matches_nothing));
    let text = anp(&format!("  ingress:\n{}", rule.repeat(100).replace("Accept", "Allow")));
    assert_eq!(super::policy(&text).ingress.len(), 100);
    let name = "n".repeat(101);
    let (policy, errors) =
        with_errors(&cnp(&format!("  ingress:\n{}", rule.replace("action", &format!("name: {name}, action")))));
    assert_eq!((policy.ingress[0].name.as_ref(), &*errors[0].field), (Some(&name), "spec.ingress[0].name"));
}

#[test]
fn a_policy_whose_subject_cannot_be_read_is_left_out() {
    let text = cnp("");
    for (subject, field, message) in [
        ("subject: {}", "spec.subject", "either namespaces or pods"),
        ("subject: null", "spec.subject", "is missing"),
        ("subject: {namespaces: {}, pods: {podSelector: {}}}", "spec.subject", "either"),
        ("subject: {serviceAccounts: {}}", "spec.subject.serviceAccounts", "unknown field"),
        ("subject: {namespaces: {matchLabels: [a]}}", "spec.subject.namespaces.matchLabels", "mapping"),
        ("subject: {namespaces: {matchLabels: {a: -b}}}", "spec.subject.namespaces.matchLabels.a", "label value"),
        ("subject: {pods: {namespaceSelector: {}}}", "spec.subject.pods.podSelector", "is missing"),
    ] {
        let text = text.replace("subject: {namespaces: {}}", subject);
        assert_eq!(assert_error(&text, 7, field, message), None, "{text}");
        assert_eq!(errors(&text)[0].object.as_ref().unwrap().to_string(), "ClusterNetworkPolicy p");
    }
    let text = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}}";
    assert_eq!(assert_error(text, 1, "spec", "is missing"), None);
}
