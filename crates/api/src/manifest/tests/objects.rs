//! Pods, Namespaces and Nodes.

use super::super::Located;
use super::*;
use crate::{ContainerPort, Phase, Protocol};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  uid: u-1
  labels: {app: web, empty: }
  creationTimestamp: 2025-01-01T00:00:00Z
spec:
  nodeName: n1
  initContainers:
  - name: once
    ports: [{name: once, containerPort: 1}]
  - name: sidecar
    restartPolicy: Always
    ports: [{name: metrics, containerPort: 9090}]
  containers:
  - name: main
    resources: {limits: {cpu: 1}}
    ports:
    - {name: http, containerPort: 8080}
    - {containerPort: 8081}
    - {name: dns, containerPort: 53, protocol: UDP, hostPort: 53}
status:
  phase: Running
  hostIP: 192.0.2.1
  hostIPs: [{ip: 192.0.2.1}, {ip: 'fd01::1'}]
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
";

#[test]
fn a_pod_has_what_verdicts_need() {
    let pod = pod(POD);
    assert_eq!((&*pod.namespace, &*pod.name, pod.uid.as_deref()), ("shop", "web-0", Some("u-1")));
    assert_eq!(pod.labels, [("app".into(), "web".into()), ("empty".into(), "".into())].into());
    assert_eq!(pod.created.unwrap().to_string(), "2025-01-01T00:00:00Z");
    assert_eq!((pod.terminating, pod.node.as_deref(), pod.host_network), (false, Some("n1"), false));
    assert_eq!(pod.phase, Phase::Live);
    assert_eq!(pod.addresses, ["10.0.0.1", "fd00::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(pod.host_addresses, ["192.0.2.1", "fd01::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    let port = |name: &str, protocol, number| ContainerPort { name: name.into(), protocol, number };
    assert_eq!(
        pod.ports,
        [port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 53), port("metrics", Protocol::Tcp, 9090)]
    );
}

#[test]
fn a_pod_may_say_very_little() {
    let pod = pod("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: null}, spec: {containers: null}}");
    assert_eq!(pod, Pod { namespace: "default".into(), name: "a".into(), ..Pod::default() });
}

#[test]
fn a_pods_life_and_network_are_read() {
    let with = |what: &str| pod(&format!("{{apiVersion: v1, kind: Pod, {what}}}"));
    assert!(with("metadata: {name: a, deletionTimestamp: 2025-01-01T00:00:00Z}").terminating);
    assert!(with("metadata: {name: a}, spec: {hostNetwork: true}").host_network);
    for (phase, counts) in [
        ("Pending", Phase::Live),
        ("Unknown", Phase::Live),
        ("Succeeded", Phase::Finished),
        ("Failed", Phase::Finished),
    ] {
        assert_eq!(with(&format!("metadata: {{name: a}}, status: {{phase: {phase}}}")).phase, counts);
    }
}

#[test]
fn no_address_of_a_pod_is_lost() {
    let with = |status: &str| {
        let pod = pod(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, status: {{{status}}}}}"));
        pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(with("podIP: 10.0.0.1"), ["10.0.0.1"]);
    assert_eq!(with("podIPs: [{ip: 'fd00::1'}, {ip: 10.0.0.1}]"), ["fd00::1", "10.0.0.1"]);
    assert_eq!(with("podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.1}]"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(with("podIP: '', podIPs: []"), [""; 0]);
    assert_eq!(with("podIP: '::ffff:10.0.0.1'"), ["10.0.0.1"]);
}

#[test]
fn wrong_values_in_the_fields_that_matter_are_errors() {
    for (from, to, line, field) in [
        ("podIP: 10.0.0.1", "podIP: 10.0.0.256", 29, "status.podIP"),
        ("{ip: 'fd00::1'}", "{ip: x}", 30, "status.podIPs[1].ip"),
        ("{ip: 'fd00::1'}", "{}", 30, "status.podIPs[1].ip"),
        ("app: web", "app: yes", 8, "metadata.labels.app"),
        ("app: web", "app: a b", 8, "metadata.labels.app"),
        ("name: web-0", "name: Web", 5, "metadata.name"),
        ("name: web-0", "name: 7", 5, "metadata.name"),
        ("name: web-0", "name: [a]", 5, "metadata.name"),
        ("name: web-0", "generateName: web-", 4, "metadata.name"),
        ("containerPort: 8081", "containerPort: 0", 23, "spec.containers[0].ports[1].containerPort"),
        ("containerPort: 8081", "containerPort: http", 23, "spec.containers[0].ports[1].containerPort"),
        ("name: http", "name: HTTP", 22, "spec.containers[0].ports[0].name"),
        ("protocol: UDP", "protocol: udp", 24, "spec.containers[0].ports[2].protocol"),
        ("nodeName: n1", "nodeName: 1", 11, "spec.nodeName"),
        ("2025-01-01T00:00:00Z", "today", 9, "metadata.creationTimestamp"),
        ("phase: Running", "phase: [x]", 26, "status.phase"),
        ("uid: u-1", "uid: u-1\n  uid: u-2", 8, "metadata.uid"),
    ] {
        let text = POD.replacen(from, to, 1);
        assert_ne!(text, POD);
        let (found_line, found_field, _) = error(&text);
        assert_eq!((found_line, &*found_field), (line, field), "{to}");
    }
}

#[test]
fn a_namespace_always_has_its_name_as_label() {
    let plain = namespace("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    assert_eq!(plain.labels, [("kubernetes.io/metadata.name".into(), "shop".into())].into());
    assert!(!plain.ingress_default_deny);
    let labels = "{team: a, kubernetes.io/metadata.name: other}";
    let own = namespace(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {labels}}}}}"));
    assert_eq!(own.labels["kubernetes.io/metadata.name"], "shop");
    assert_eq!(own.labels["team"], "a");
}

fn annotated(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations:\n    \
         net.beta.kubernetes.io/network-policy: {value}\n"
    )
}

#[test]
fn the_annotation_isolates_a_namespace() {
    let deny = r#"'{"ingress":{"isolation":"DefaultDeny"}}'"#;
    assert!(namespace(&annotated(deny)).ingress_default_deny);
    let block = "|\n      {\n        \"ingress\": {\n          \"isolation\": \"DefaultDeny\"\n        }\n      }";
    assert!(namespace(&annotated(block)).ingress_default_deny);
    for open in ["'{}'", r#"'{"ingress":{}}'"#, r#"'{"ingress":null}'"#] {
        assert!(!namespace(&annotated(open)).ingress_default_deny, "{open}");
    }
}

#[test]
fn an_annotation_that_cant_be_understood_is_an_error_and_isolates() {
    for bad in [
        "'{'",
        "DefaultDeny",
        "''",
        "null",
        "{ingress: {isolation: DefaultDeny}}",
        r#"'{"ingress":{"isolation":"defaultdeny"}}'"#,
        r#"'{"ingres":{"isolation":"DefaultDeny"}}'"#,
        r#"'{"ingress":"DefaultDeny"}'"#,
    ] {
        let Parsed { objects, errors } = parse("t.yaml", &annotated(bad));
        let [Located { object: Object::Namespace(namespace), .. }] = &*objects else { panic!("{bad}: {objects:?}") };
        assert!(namespace.ingress_default_deny, "{bad}");
        assert_eq!(errors.len(), 1, "{bad}");
        assert_eq!(
            (errors[0].line, &*errors[0].field),
            (6, "metadata.annotations[net.beta.kubernetes.io/network-policy]")
        );
        assert!(errors[0].message.contains(r#"'{"ingress":{"isolation":"DefaultDeny"}}'"#));
        assert_eq!(errors[0].object.as_ref(), Some(&objects[0].object.key()));
    }
}

#[test]
fn a_namespace_that_is_broken_elsewhere_stays_isolated() {
    let text = annotated(r#"'{"ingress":{"isolation":"DefaultDeny"}}'"#) + "  labels: {a: yes}\n";
    let Parsed { objects, errors } = parse("t.yaml", &text);
    assert!(matches!(&objects[..], [Located { object: Object::Namespace(n), .. }] if n.ingress_default_deny));
    assert_eq!(&*errors[0].field, "metadata.labels.a");
    assert_eq!(errors.len(), 1);
}

#[test]
fn a_node_has_its_addresses_and_pod_ranges() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: a}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: ExternalIP, address: 'fd01::1'}
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 192.0.2.1}
";
    let node = node(text);
    assert_eq!(node.name, "n1");
    assert_eq!(node.labels["zone"], "a");
    assert_eq!(node.addresses, ["192.0.2.1", "fd01::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(node.pod_cidrs, ["10.1.0.0/24", "fd00:1::/64"].map(|a| a.parse().unwrap()));
    for (from, to, field) in [
        ("192.0.2.1}", "n1}", "status.addresses[0].address"),
        ("fd00:1::/64", "fd00:1::", "spec.podCIDRs[1]"),
        ("podCIDR: 10.1.0.0/24", "podCIDR: x", "spec.podCIDR"),
    ] {
        assert_eq!(error(&text.replacen(from, to, 1)).1, field);
    }
    let old = "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.2.0.0/24}}";
    assert_eq!(super::node(old).pod_cidrs.len(), 1);
}
