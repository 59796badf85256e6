//! `podgate explain` through the binary: the text as people see it (in `explain/*.txt`), the JSON, arguments, exit codes,
//! and that what it proposes does help.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod cli;

use cli::Desk;

const WORLD: &str = include_str!("explain/world.yaml");

fn desk() -> Desk {
    Desk::new(&[("world.yaml", WORLD)])
}

macro_rules! text {
    ($($name:ident: $line:literal => $file:literal;)*) => {$(
        #[test]
        fn $name() {
            let desk = desk();
            let said = desk.run(concat!("explain -f world.yaml ", $line));
            let out = said.out(0);
            let expected = include_str!(concat!("explain/", $file, ".txt"));
            assert!(out == expected, "\n--- said\n{out}\n--- explain/{}.txt\n{expected}", $file);
        }
    )*};
}

text! {
    an_allowed_flow_names_the_rules_that_accept_it: "shop/web shop/db --port 5432" => "accepted";
    a_denied_flow_shows_the_nearest_rules_and_what_fails_in_them: "blog/reader shop/db:9000" => "near-miss";
    an_address_is_told_that_it_is_excepted: "203.0.113.200 shop/db --port 5432" => "except";
    the_sources_own_egress_is_told_apart: "shop/web blog/reader --port 80" => "egress";
    a_host_network_pod_is_its_node: "shop/proxy shop/db --port 1" => "own-node";
    the_annotation_isolates_and_old_policies_open: "shop/db old/box --port 80" => "annotation";
    labels_of_a_namespace_that_nobody_told_are_pointed_out: "stray/guest shop/db --port 5432" => "namespace-untold";
}

#[test]
fn ends_and_port_may_be_written_in_any_way() {
    let desk = desk();
    let expected = include_str!("explain/accepted.txt");
    for line in [
        "explain -f world.yaml shop/web shop/db -p 5432",
        "explain -f world.yaml shop/web shop/db:5432 --port 5432",
        "explain shop/web shop/db --port 5432 -f world.yaml",
        "explain shop/web -f world.yaml shop/db --port 5432 --protocol tcp",
        "explain --from shop/web --to shop/db:5432 -f world.yaml",
        "explain -f world.yaml --to shop/db:5432 shop/web",
        "explain -f world.yaml shop/web --to shop/db:5432",
        "explain -f world.yaml --family 4 -o text shop/web shop/db:5432",
    ] {
        assert_eq!(desk.run(line).out(0), expected, "{line}");
    }
    assert_eq!(desk.run_with("explain -f - shop/web shop/db:5432", WORLD).code, 0);
}

#[test]
fn addresses_are_explained_as_whose_they_are() {
    let desk = desk();
    let denied = desk.run("explain -f world.yaml 10.1.0.3 10.1.0.2:9000");
    assert!(
        denied.out(0).starts_with("DENIED: 10.1.0.3 -> 10.1.0.2, TCP 9000\n  by ingress of shop/db: "),
        "{denied:?}"
    );
    assert!(denied.out.contains("\nfrom  pod blog/reader, 10.1.0.3\n"), "{denied:?}");
    let node = desk.run("explain -f world.yaml blog/reader 192.0.2.1:80");
    assert!(node.out(0).contains("\nto    node east, 192.0.2.1\n"), "{node:?}");
    let outside = desk.run("explain -f world.yaml 198.51.100.1 198.51.100.2 --protocol ICMP");
    assert!(outside.out(0).starts_with("ALLOWED: 198.51.100.1 -> 198.51.100.2, ICMP\n"), "{outside:?}");
}

#[test]
fn input_errors_say_what_to_do() {
    let desk = desk();
    for (line, message) in [
        (
            "explain -f world.yaml shop/web shop/db",
            "podgate: which port? Give --port N (or --protocol ICMP, which has none)",
        ),
        (
            "explain -f world.yaml shop/web shop/db:1 --port 2",
            "podgate: which port is meant: 1 (in `shop/db:1`) or 2 (--port)?",
        ),
        ("explain -f world.yaml shop/web shop/db:1 --protocol ICMP", "podgate: ICMP has no ports: leave the port out"),
        (
            "explain -f world.yaml shop/web",
            "podgate: a flow has two ends, given are 1: podgate explain -f MANIFESTS... FROM TO",
        ),
        ("explain shop/web shop/db:1", "podgate: no manifests given: podgate explain -f MANIFESTS... FROM TO --port N"),
        ("explain -f nowhere shop/web shop/db:1", "podgate: cannot read nowhere"),
        (
            "explain -f world.yaml shop/wep shop/db:1",
            "podgate: there is no pod shop/wep in the manifests (namespace shop has db, proxy, web)",
        ),
        (
            "explain -f world.yaml shop/web shop/db:1 --family 6",
            "podgate: shop/web has no IPv6 address (it has 10.1.0.1)",
        ),
        (
            "explain -f world.yaml shop/web shop/db:1 --protocol GRE",
            "error: invalid value 'GRE' for '--protocol <P>': unknown protocol \"GRE\"",
        ),
        ("explain -f world.yaml shop/web shop/db --port 0", "error: invalid value '0' for '--port <N>'"),
    ] {
        let said = desk.run(line);
        assert!(said.input_error().starts_with(message), "{line}: {said:?}");
    }
}

#[test]
fn the_json_says_the_same_as_data() {
    let desk = desk();
    let said = desk.run("explain -f world.yaml -o json blog/reader shop/db:9000");
    let json: serde_json::Value = serde_json::from_str(said.out(0)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&json), "destination egress from ingress port protocol source to verdict warnings");
    assert_eq!(
        (&json["from"], &json["to"], &json["protocol"], &json["port"], &json["verdict"]),
        (&"blog/reader".into(), &"shop/db".into(), &"TCP".into(), &9000.into(), &"deny".into())
    );
    assert_eq!(
        json["source"],
        serde_json::json!({
            "kind": "pod", "name": "blog/reader", "address": "10.1.0.3", "node": null, "namespace": "blog",
            "labels": {"app": "reader"},
            "namespaceLabels": {"kubernetes.io/metadata.name": "blog", "team": "b"},
        })
    );
    assert_eq!(
        json["egress"],
        serde_json::json!({
            "verdict": "allow", "rule": null, "cause": "open",
            "because": "no policy isolates blog/reader for egress",
            "isolatedBy": [], "rules": [], "notSelecting": [], "remedies": [],
        })
    );
    let ingress = &json["ingress"];
    assert_eq!(ingress["verdict"], "deny");
    assert_eq!(ingress["cause"], "defaultDeny");
    assert_eq!(ingress["rule"], "networkpolicy/shop/closed/ingress/default-deny");
    assert_eq!(
        ingress["isolatedBy"],
        serde_json::json!([
            {"policy": "shop/closed", "kind": "NetworkPolicy", "place": "world.yaml:35"},
            {"policy": "shop/db", "kind": "NetworkPolicy", "place": "world.yaml:21"},
        ])
    );
    assert_eq!(
        ingress["rules"][0],
        serde_json::json!({
            "rule": "networkpolicy/shop/db/ingress/1", "place": "world.yaml:21", "matches": false,
            "says": "accepts from every pod in namespaces with team=c, on TCP 5432, TCP 9000-9100",
            "mismatch": ["from[0]: of blog/reader, namespace label team is \"b\", not \"c\""],
        })
    );
    assert_eq!(keys(&ingress["remedies"][0]), "manifest what");
    assert_eq!(json["warnings"], serde_json::json!([]));
}

#[test]
fn warnings_are_about_these_ends_only() {
    let desk = desk();
    desk.write(
        "relic.yaml",
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: relic, namespace: shop}\n\
         spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}\n",
    );
    let about = desk.run("explain -f world.yaml relic.yaml shop/web shop/db:5432");
    assert!(about.out(0).contains("\nWarnings\n  relic.yaml:1: NetworkPolicy shop/relic: "), "{about:?}");
    let other = desk.run("explain -f world.yaml relic.yaml shop/web blog/reader:80");
    assert!(!other.out(0).contains("Warnings"), "{other:?}");
}

#[test]
fn explain_and_test_give_the_same_verdict_and_rules() {
    let desk = desk();
    let pods =
        ["shop/web", "shop/db", "shop/proxy", "blog/reader", "stray/guest", "old/box", "203.0.113.7", "192.0.2.1"];
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        let flow = format!("{{\"from\":\"{from}\",\"to\":\"{to}\",\"port\":5432,\"expect\":\"allow\"}}");
        let tested = desk.run_with("test -f world.yaml -o json -", &flow);
        let tested: serde_json::Value = serde_json::from_str(&tested.out).unwrap();
        let said = desk.run(&format!("explain -f world.yaml -o json {from} {to} --port 5432"));
        let explained: serde_json::Value = serde_json::from_str(said.out(0)).unwrap();
        let tested = &tested["flows"][0];
        assert_eq!(tested["verdict"], explained["verdict"], "{from} {to}");
        for side in ["egress", "ingress"] {
            assert_eq!(tested[side]["verdict"], explained[side]["verdict"], "{from} {to} {side}");
            assert_eq!(tested[side]["rule"], explained[side]["rule"], "{from} {to} {side}");
        }
    }
}

/// Takes a proposal of the given kind and says what the flow comes to with it.
fn with_proposal(flow: &str, prefix: &str, apply: impl Fn(&Desk, &str)) {
    let desk = desk();
    let line = format!("explain -f world.yaml -o json {flow}");
    let before: serde_json::Value = serde_json::from_str(desk.run(&line).out(0)).unwrap();
    assert_eq!(before["verdict"], "deny");
    let remedies = [&before["egress"]["remedies"], &before["ingress"]["remedies"]];
    let remedy =
        remedies.iter().flat_map(|r| r.as_array().unwrap()).find(|r| r["what"].as_str().unwrap().starts_with(prefix));
    let remedy = remedy.unwrap_or_else(|| panic!("no proposal `{prefix}`: {before}"));
    apply(&desk, remedy["manifest"].as_str().unwrap_or_default());
    let said = desk.run(&line);
    let after: serde_json::Value = serde_json::from_str(said.out(0)).unwrap();
    assert_eq!(after["verdict"], "allow", "{remedy}: {after}");
}

#[test]
fn a_proposed_policy_helps() {
    with_proposal("shop/db old/box:80", "add a policy", |desk, manifest| {
        desk.write("world.yaml", &format!("{WORLD}---\n{manifest}"));
    });
}

#[test]
fn a_proposed_rule_helps() {
    with_proposal("shop/web blog/reader:80", "add to spec.egress of NetworkPolicy shop/web-out", |desk, manifest| {
        let rule: String = manifest.lines().map(|line| format!("  {line}\n")).collect();
        assert!(WORLD.contains("  egress:\n"));
        desk.write("world.yaml", &WORLD.replace("  egress:\n", &format!("  egress:\n{rule}")));
    });
}

#[test]
fn a_proposed_label_helps() {
    with_proposal("blog/reader shop/db:9000", "label namespace blog with team=c", |desk, _| {
        assert!(WORLD.contains("labels: {team: b}"));
        desk.write("world.yaml", &WORLD.replace("labels: {team: b}", "labels: {team: c}"));
    });
}

#[test]
fn another_port_is_proposed_where_only_the_port_differs() {
    let said = desk().run("explain -f world.yaml shop/web shop/db:80");
    assert!(
        said.out(0).contains("* connect to port 5432, which networkpolicy/shop/web-out/egress/0 accepts"),
        "{said:?}"
    );
    assert!(
        said.out.contains("* connect to port 5432 (sql), which networkpolicy/shop/db/ingress/0 accepts"),
        "{said:?}"
    );
}

/// A policy of the Admin tier that passes TCP 80 to the shop on, one that denies the rest of namespace blog, and one of
/// the Baseline tier.
const TIERS: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: passing}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {team: a}}}
  ingress:
  - {name: http, action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
  - {name: blog, action: Deny, from: [{namespaces: {matchLabels: {team: b}}}]}
  egress:
  - {action: Deny, to: [{nodes: {matchLabels: {role: db}}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: after}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
";

#[test]
fn a_rule_that_passes_is_told_and_tiers_that_are_not_asked_are_left_out() {
    let desk = desk();
    desk.write("tiers.yaml", TIERS);
    let said = desk.run("explain -f world.yaml tiers.yaml -- blog/reader shop/db:80");
    let out = said.out(0);
    let passed = "  left to NetworkPolicies by\n    admin//passing/ingress/http (tiers.yaml:2)\n      passes from every pod in \
                  any namespace, on TCP 80\n";
    assert!(out.contains(passed), "{out}");
    // The two rules of networkpolicy/shop/db.
    assert!(out.contains("  none of the 2 rules matches, the nearest first\n"), "{out}");
    assert!(!out.contains("baseline//") && !out.contains("admin//passing/ingress/blog"), "{out}");
}

#[test]
fn a_denial_of_a_cluster_tier_is_told_with_what_a_network_policy_can_do() {
    let desk = desk();
    desk.write("tiers.yaml", TIERS);
    let admin = desk.run("explain -f world.yaml tiers.yaml -- blog/reader shop/db:5432");
    let out = admin.out(0);
    assert!(out.contains("DENIED, denied by admin//passing/ingress/blog\n"), "{out}");
    assert!(out.contains("denies from every pod in namespaces with team=b, on any port and protocol"), "{out}");
    assert!(!out.contains("add "), "no NetworkPolicy helps against the Admin tier: {out}");
    let baseline = desk.run("explain -f world.yaml tiers.yaml -- shop/db blog/reader:80");
    let out = baseline.out(0);
    assert!(out.contains("DENIED, denied by baseline//after/ingress/0\n"), "{out}");
    let add = "* add a policy (from then on blog/reader has no ingress but what NetworkPolicies allow):\n";
    assert!(out.contains(add), "{out}");
}

#[test]
fn nodes_are_told_apart_by_their_labels() {
    let desk = desk();
    desk.write("tiers.yaml", TIERS);
    let line = "explain -f world.yaml tiers.yaml -o json -- shop/db 192.0.2.1:22";
    let told: serde_json::Value = serde_json::from_str(desk.run(line).out(0)).unwrap();
    let rule = &told["egress"]["rules"][0];
    assert_eq!((&rule["rule"], &told["egress"]["cause"]), (&"admin//passing/egress/0".into(), &"ownNode".into()));
    assert_eq!(rule["mismatch"][0], "to[0]: node east: label role is absent, not \"db\"");
    let labelled = WORLD.replace("metadata: {name: east}", "metadata: {name: east, labels: {role: db}}");
    desk.write("world.yaml", &labelled);
    let told: serde_json::Value = serde_json::from_str(desk.run(line).out(0)).unwrap();
    assert_eq!(told["egress"]["rule"], "admin//passing/egress/0");
    assert_eq!(told["egress"]["rules"][0]["says"], "denies to nodes with role=db, on any port and protocol");
}
