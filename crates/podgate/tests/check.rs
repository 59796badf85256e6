//! `podgate test` through the binary: its contract with files, arguments, output and exit codes. What policies mean is
//! tested where it is computed.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod cli;

use cli::Desk;

const SHOP: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: a, containers: [{name: c, image: i, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIP: 10.1.0.10}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: b}
status: {phase: Running, podIP: 10.1.0.11}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
";

const AS_EXPECTED: &str = "\
flows:
- {from: shop/web, to: shop/db, protocol: TCP, port: 5432, expect: allow}
- {from: 203.0.113.9, to: shop/db, port: 5432, expect: deny}        # protocol: TCP by default
";

fn desk() -> Desk {
    Desk::new(&[("shop.yaml", SHOP), ("e.yaml", AS_EXPECTED)])
}

#[test]
fn flows_that_are_as_expected_pass() {
    assert_eq!(desk().run("test -f shop.yaml e.yaml").out(0), "2 flows: all as expected\n");
}

#[test]
fn the_json_has_the_contracts_shape_and_an_entry_per_expectation_in_order() {
    let desk = desk();
    desk.write("f.yaml", "- {from: shop/db, to: 10.1.0.11, protocol: udp, port: 53, expect: allow}\n");
    let said = desk.run("test -f shop.yaml -o json e.yaml");
    assert_eq!(
        said.out(0),
        "{\"passed\":2,\"failed\":0,\"flows\":[\n\
         {\"from\":\"shop/web\",\"to\":\"shop/db\",\"protocol\":\"TCP\",\"port\":5432,\"expect\":\"allow\",\"verdict\":\"allow\",\
         \"ingress\":{\"verdict\":\"allow\",\"rule\":\"networkpolicy/shop/db/ingress/0\"},\
         \"egress\":{\"verdict\":\"allow\",\"rule\":null}},\n\
         {\"from\":\"203.0.113.9\",\"to\":\"shop/db\",\"protocol\":\"TCP\",\"port\":5432,\"expect\":\"deny\",\"verdict\":\"deny\",\
         \"ingress\":{\"verdict\":\"deny\",\"rule\":\"networkpolicy/shop/db/ingress/default-deny\"},\
         \"egress\":{\"verdict\":\"allow\",\"rule\":null}}\n]}\n"
    );
    let said = desk.run("test -f shop.yaml -o json f.yaml");
    assert_eq!(
        said.out(1),
        "{\"passed\":0,\"failed\":1,\"flows\":[\n\
         {\"from\":\"shop/db\",\"to\":\"10.1.0.11\",\"protocol\":\"UDP\",\"port\":53,\"expect\":\"allow\",\"verdict\":\"deny\",\
         \"ingress\":{\"verdict\":\"allow\",\"rule\":null},\
         \"egress\":{\"verdict\":\"deny\",\"rule\":\"networkpolicy/shop/db/egress/default-deny\"}}\n]}\n"
    );
}

#[test]
fn failures_are_a_table_with_the_rule_and_how_to_learn_more() {
    let desk = desk();
    desk.write(
        "f.yaml",
        "flows:\n\
         - {from: shop/web, to: shop/db, port: 5432, expect: deny}\n\
         - {from: shop/web, to: shop/db, port: 5432, expect: allow}\n\
         - {from: shop/db, to: shop/web, protocol: ICMP, expect: allow}\n\
         - {from: 203.0.113.9, to: shop/web, port: 443, expect: deny}\n",
    );
    assert_eq!(
        desk.run("test -f shop.yaml f.yaml").out(1),
        "\
LINE  FROM         TO        PORT      EXPECTED  VERDICT  DECIDED BY
2     shop/web     shop/db   TCP 5432  deny      allow    networkpolicy/shop/db/ingress/0
4     shop/db      shop/web  ICMP      allow     deny     networkpolicy/shop/db/egress/default-deny
5     203.0.113.9  shop/web  TCP 443   deny      allow    no rule: nothing isolates either end here

Why the first one: podgate explain -f shop.yaml shop/web shop/db --port 5432

4 flows: 1 as expected, 3 FAILED
"
    );
}

#[test]
fn arguments_may_stand_in_any_order() {
    let (first, rest) = SHOP.split_once("---\n").unwrap();
    let (second, third) = rest.split_once("---\n").unwrap();
    let desk = Desk::new(&[
        ("a.yaml", first),
        ("dir/deep/b.yml", second),
        ("dir/.hidden.yaml", "nonsense: ["),
        ("dir/notes.txt", "nonsense: ["),
        ("c.yaml", third),
        ("e.yaml", AS_EXPECTED),
    ]);
    for line in [
        "test -f a.yaml dir c.yaml e.yaml",
        "test -f a.yaml -f dir -f c.yaml e.yaml",
        "test -f a.yaml -f dir c.yaml e.yaml",
        "test e.yaml -f a.yaml dir c.yaml",
        "test e.yaml -f a.yaml -f dir -f c.yaml",
        "test -f a.yaml dir e.yaml -f c.yaml",
        "test -f a.yaml dir c.yaml -o text e.yaml",
        "test -f a.yaml dir c.yaml e.yaml -o text",
        "test -o text -f a.yaml dir c.yaml -- e.yaml",
        "test --filename a.yaml --filename=dir -fc.yaml e.yaml",
    ] {
        assert_eq!(desk.run(line).out(0), "2 flows: all as expected\n", "{line}");
    }
}

#[test]
fn standard_input_serves_for_either_but_not_for_both() {
    let desk = desk();
    assert_eq!(desk.run_with("test -f shop.yaml -", AS_EXPECTED).out(0), "2 flows: all as expected\n");
    assert_eq!(desk.run_with("test -f - e.yaml", SHOP).out(0), "2 flows: all as expected\n");
    let both = desk.run_with("test -f - -", SHOP);
    assert!(both.input_error().contains("cannot both be read from standard input"), "{both:?}");
}

#[test]
fn expectations_are_read_in_every_form() {
    let desk = desk();
    let a = r#"{"from":"shop/web","to":"shop/db","protocol":"TCP","port":5432,"expect":"allow"}"#;
    let b = r#"{"from":"shop/web","to":"shop/db","protocol":"ICMP","port":null,"expect":"deny"}"#;
    for text in [
        format!("{{\"flows\":[{a},{b}]}}"),
        format!("[{a},\n {b}]"),
        format!("{a}\n{b}\n"),
        format!("flows: [{a}, {b}]"),
        format!("- {a}\n- {b}\n"),
        format!("---\nflows:\n- {a}\n- {b}\n"),
        "{flows: [{from: shop/web, to: shop/db, port: 1, expect: deny}, {from: 10.1.0.10, to: 1.1.1.1, port: 1, expect: deny}]}"
            .to_owned(),
    ] {
        desk.write("any", &text);
        assert_eq!(desk.run("test -f shop.yaml any").out(0), "2 flows: all as expected\n", "{text}");
    }
    desk.write("none.yaml", "flows: []\n");
    assert_eq!(desk.run("test -f shop.yaml -o json none.yaml").out(0), "{\"passed\":0,\"failed\":0,\"flows\":[]}\n");
}

#[test]
fn a_bad_expectation_is_an_input_error_with_its_place() {
    let desk = desk();
    let good = "{from: shop/web, to: shop/db, port: 5432, expect: allow}";
    for (bad, message) in [
        ("{from: shop/web, to: shop/db, port: 5432, expect: allow, prot: TCP}", "unknown field `prot`"),
        ("{from: shop/web, to: shop/db, port: \"5432\", expect: allow}", "port: expected a number"),
        ("{from: shop/web, to: shop/db, port: 5432}", "expect is missing"),
        ("{to: shop/db, port: 5432, expect: allow}", "from is missing"),
        ("{from: shop/web, port: 5432, expect: allow}", "to is missing"),
        ("{from: shop/web, to: shop/db, expect: allow}", "port is missing"),
        ("{from: shop/web, to: shop/db, protocol: SCTP, expect: allow}", "port is missing"),
        ("{from: shop/web, to: shop/db, protocol: ICMP, port: 1, expect: allow}", "ICMP has no ports"),
        ("{from: shop/web, to: shop/db, protocol: GRE, port: 1, expect: allow}", "unknown protocol \"GRE\""),
        ("{from: shop/web, to: shop/db, port: 65536, expect: allow}", "port 65536 is not in 1-65535"),
        ("{from: shop/web, to: shop/db, port: 1, expect: Allow}", "expect is \"Allow\""),
        ("{from: shop/web, to: shop/db, port: 1, family: 5, expect: deny}", "family 5 is neither 4 nor 6"),
        (
            "{from: shop/wep, to: shop/db, port: 1, expect: deny}",
            "there is no pod shop/wep in the manifests (namespace shop has db, web)",
        ),
        (
            "{from: shop/web, to: stop/db, port: 1, expect: deny}",
            "there is no pod stop/db in the manifests (and none in namespace stop)",
        ),
        ("{from: web, to: shop/db, port: 1, expect: deny}", "`web` is neither namespace/pod nor an IP address"),
        ("{from: 10.0.0.0/8, to: shop/db, port: 1, expect: deny}", "`10.0.0.0/8` is an address block"),
        (
            "{from: \"fd00::1\", to: shop/db, port: 1, expect: deny}",
            "fd00::1 and shop/db have no address family in common (fd00::1 and 10.1.0.10)",
        ),
        (
            "{from: shop/web, to: shop/db, port: 1, family: 6, expect: deny}",
            "shop/web has no IPv6 address (it has 10.1.0.11)",
        ),
    ] {
        desk.write("bad.yaml", &format!("flows:\n- {good}\n- {bad}\n"));
        let said = desk.run("test -f shop.yaml bad.yaml");
        assert!(said.input_error().contains(&format!("bad.yaml:3: flows[1]: {message}")), "{bad}: {said:?}");
    }
}

#[test]
fn every_bad_expectation_is_told() {
    let desk = desk();
    desk.write(
        "bad.jsonl",
        "{\"from\":1}\n{\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":-1,\"expect\":\"deny\"}\n\n{\"to\":[]}\n",
    );
    assert_eq!(
        desk.run("test -f shop.yaml bad.jsonl").input_error(),
        "podgate: the expectations have 3 errors, so nothing was checked:\n\
         bad.jsonl:1: flows[0]: from: invalid type: integer `1`, expected a string\n\
         bad.jsonl:2: flows[1]: port -1 is not in 1-65535\n\
         bad.jsonl:4: flows[2]: to: invalid type: sequence, expected a string\n"
    );
}

#[test]
fn a_file_that_is_no_list_of_flows_is_an_input_error() {
    let desk = desk();
    for (text, message) in [
        ("", "bad:1: no expectations"),
        ("# nothing yet\n", "bad:1: no expectations"),
        ("flow:\n- {}\n", "bad:1: unknown field `flow`"),
        ("{\"flows\": 3}", "bad:1: invalid type: integer `3`, expected a sequence"),
        ("{\"from\":\"shop/web\"\n", "bad:2: not valid JSON: EOF"),
        ("flows:\n- {from: shop/web\n", "bad:3: not valid YAML"),
        (SHOP, "bad:1: unknown field `apiVersion`"),
    ] {
        desk.write("bad", text);
        let said = desk.run("test -f shop.yaml bad");
        assert!(said.input_error().contains(message), "{text}: {said:?}");
    }
}

#[test]
fn broken_manifests_are_an_input_error_each_with_file_line_and_field() {
    let desk = desk();
    desk.write(
        "bad/p.yaml",
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - ports: [{port: 80, endPort: 79}]
",
    );
    desk.write("bad/q.yaml", "kind: [\n");
    let said = desk.run("test -f shop.yaml bad e.yaml");
    let error = said.input_error();
    assert!(
        error.starts_with("podgate: the manifests have 2 errors, so nothing was judged:\nbad/p.yaml:7: "),
        "{error}"
    );
    assert!(error.contains("spec.ingress[0].ports[0].endPort: "), "{error}");
    assert!(error.contains("\nbad/q.yaml:"), "{error}");
}

#[test]
fn missing_files_and_arguments_are_told() {
    let desk = desk();
    for (line, message) in [
        (
            "test -f nowhere e.yaml",
            "podgate: cannot read nowhere (-f takes manifest files and directories): No such file",
        ),
        ("test -f shop.yaml nowhere.yaml", "podgate: cannot read the expectations, nowhere.yaml: No such file"),
        ("test -f shop.yaml", "podgate: no expectations file given: podgate test -f MANIFESTS... EXPECTATIONS"),
        ("test e.yaml", "podgate: no manifests given: podgate test -f MANIFESTS... EXPECTATIONS"),
        ("test -f shop.yaml -o yaml e.yaml", "error: invalid value 'yaml' for '--output"),
    ] {
        let said = desk.run(line);
        assert!(said.input_error().starts_with(message), "{line}: {said:?}");
    }
}

#[test]
fn policies_without_effect_are_warned_about() {
    let desk = desk();
    desk.write(
        "old.yaml",
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: old, namespace: shop}\n\
         spec: {podSelector: {}, ingress: []}\n",
    );
    let said = desk.run("test -f shop.yaml old.yaml e.yaml");
    assert_eq!((said.code, said.out.as_str()), (0, "2 flows: all as expected\n"));
    assert!(said.err.starts_with("warning: old.yaml:1: NetworkPolicy shop/old: "), "{said:?}");
}

const ENDS: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: a}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: a}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: 'fd12::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: four, namespace: net}, spec: {nodeName: a}, status: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: six, namespace: net}, spec: {nodeName: b}, status: {podIPs: [{ip: 'fd00::2'}, {ip: 10.1.0.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: only6, namespace: net}, spec: {nodeName: b}, status: {podIP: 'fd00::3'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: net}, spec: {nodeName: a, hostNetwork: true}, status: {hostIP: 192.0.2.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host-b, namespace: net}, spec: {nodeName: b, hostNetwork: true}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lost, namespace: net}, spec: {hostNetwork: true}}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: net}, status: {phase: Succeeded, podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: net}, status: {phase: Pending}}
---
{apiVersion: v1, kind: Pod, metadata: {name: stale, namespace: net, creationTimestamp: '2024-01-01T00:00:00Z'}, status: {podIP: 10.1.0.9}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fresh, namespace: net, creationTimestamp: '2024-01-01T00:00:01Z'}, status: {podIP: 10.1.0.9}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: by-address, namespace: net}
spec:
  podSelector: {}
  ingress:
  - from: [{ipBlock: {cidr: 10.1.0.0/16}}]
  - from: [{ipBlock: {cidr: 'fd00::/16'}}]
  - from: [{ipBlock: {cidr: 192.0.2.2/32}}]
";

/// The flow's verdict, and the index of the rule that accepted it at the destination.
fn ends(from: &str, to: &str, more: &str) -> Result<String, String> {
    let desk = Desk::new(&[("m.yaml", ENDS)]);
    let flow = format!("[{{from: '{from}', to: '{to}', {more} expect: allow}}]");
    let said = desk.run_with("test -f m.yaml -o json -", &flow);
    if said.code == 2 {
        return Err(said.input_error().lines().last().unwrap().replace("-:1: flows[0]: ", ""));
    }
    let (_, ingress) = said.out.split_once("\"ingress\":{\"verdict\":\"").unwrap();
    let (ingress, _) = ingress.split_once('}').unwrap();
    Ok(ingress.replace("\",\"rule\":", " ").replace(['"'], "").replace("networkpolicy/net/by-address/ingress/", ""))
}

#[test]
fn dual_stack_pods_meet_in_the_first_family_of_the_source_that_both_have() {
    assert_eq!(ends("net/four", "net/six", "port: 1,").unwrap(), "allow 0");
    assert_eq!(ends("net/six", "net/four", "port: 1,").unwrap(), "allow 1");
    assert_eq!(ends("net/four", "net/only6", "port: 1,").unwrap(), "allow 1");
    assert_eq!(ends("net/four", "net/six", "port: 1, family: 6,").unwrap(), "allow 1");
    assert_eq!(ends("net/six", "net/four", "port: 1, family: 4,").unwrap(), "allow 0");
    assert_eq!(ends("net/six", "net/four", "protocol: ICMP,").unwrap(), "allow 1");
}

#[test]
fn a_pod_meets_an_address_in_the_addresses_family() {
    assert_eq!(ends("10.1.0.2", "net/four", "port: 1,").unwrap(), "allow 0");
    assert_eq!(ends("fd00::2", "net/four", "port: 1,").unwrap(), "allow 1");
    assert_eq!(ends("fd12::2", "net/four", "port: 1,").unwrap(), "deny default-deny");
    assert_eq!(ends("net/four", "fd00::2", "port: 1,").unwrap(), "allow 1");
    assert_eq!(ends("net/six", "10.1.0.1", "port: 1,").unwrap(), "allow 0");
    assert_eq!(ends("::ffff:10.1.0.2", "net/four", "port: 1,").unwrap(), "allow 0");
}

#[test]
fn a_nodes_address_and_its_host_network_pods_are_the_node() {
    assert_eq!(ends("192.0.2.1", "net/four", "port: 1,").unwrap(), "allow null");
    assert_eq!(ends("net/host", "net/four", "port: 1,").unwrap(), "allow null");
    assert_eq!(ends("net/host-b", "net/four", "port: 1,").unwrap(), "allow 2");
    assert_eq!(ends("net/host", "net/six", "port: 1,").unwrap(), "deny default-deny");
    assert_eq!(ends("net/host-b", "net/only6", "port: 1,").unwrap(), "allow null");
    assert_eq!(ends("net/host-b", "net/four", "port: 1, family: 6,").unwrap(), "deny default-deny");
    assert_eq!(ends("net/four", "net/host-b", "port: 1,").unwrap(), "allow null");
}

#[test]
fn a_host_network_pod_is_met_at_its_own_address_before_others_of_its_node() {
    let manifests = "\
{apiVersion: v1, kind: Node, metadata: {name: b}, status: {addresses: [{type: InternalIP, address: 'fd12::2'}, {type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: net}, spec: {nodeName: b, hostNetwork: true}, status: {podIP: 192.0.2.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: six, namespace: net}, spec: {nodeName: a}, status: {podIPs: [{ip: 'fd00::2'}, {ip: 10.1.0.2}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: net}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.2/32}}]}]}
";
    let flows = "[{from: net/six, to: net/host, port: 1, expect: allow},
                  {from: net/six, to: net/host, port: 1, family: 6, expect: deny}]";
    let said = Desk::new(&[("m.yaml", manifests)]).run_with("test -f m.yaml -", flows);
    assert_eq!((said.code, said.out.as_str()), (0, "2 flows: all as expected\n"), "{said:?}");
}

#[test]
fn a_pods_own_address_is_itself() {
    assert_eq!(ends("net/four", "10.1.0.1", "port: 1,").unwrap(), "allow null");
}

#[test]
fn an_end_without_an_address_is_an_input_error() {
    let error = |end: &str| ends("net/four", end, "port: 1,").unwrap_err();
    assert_eq!(error("net/done"), "pod net/done has finished (phase Succeeded or Failed): it has no address any more");
    assert_eq!(error("net/new"), "pod net/new has no address: its manifest needs status.podIP (or status.podIPs)");
    assert_eq!(
        error("net/stale"),
        "pod net/stale does not have its address 10.1.0.9 any more: the newer pod net/fresh has it"
    );
    assert_eq!(
        error("net/lost"),
        "hostNetwork pod net/lost has its node's address, and the manifests do not tell one: \
         give the pod a spec.nodeName and a status.hostIP"
    );
    assert_eq!(
        ends("192.0.2.1", "net/only6", "port: 1,").unwrap_err(),
        "192.0.2.1 and net/only6 have no address family in common (192.0.2.1 and fd00::3)"
    );
}

#[test]
fn an_unknown_address_in_a_nodes_pod_range_is_nobody() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.1.0.0/24}}";
    let desk = Desk::new(&[("shop.yaml", SHOP), ("node.yaml", node)]);
    let flow = r#"[{"from":"shop/web","to":"10.1.0.77","port":1,"expect":"allow"}]"#;
    let said = desk.run_with("test -f shop.yaml node.yaml -o json -", flow);
    assert!(said.out(0).contains(r#""ingress":{"verdict":"allow","rule":null}"#), "{said:?}");
}

#[test]
fn the_examples_of_the_repository_are_as_they_say() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples");
    let (desk, mut count) = (Desk::new(&[]), 0);
    for example in std::fs::read_dir(examples).unwrap() {
        let example = example.unwrap().path();
        if example.is_dir() {
            let example = example.display();
            let said = desk.run(&format!("test -f {example}/manifests {example}/expectations.yaml"));
            assert_eq!(said.code, 0, "{example}: {said:?}");
            count += 1;
        }
    }
    assert!(count >= 7, "only {count} examples");
}
