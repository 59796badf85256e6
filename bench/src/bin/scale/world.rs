//! The cluster's objects as the API server takes them, in blocks of 10,000 pods: whatever is loaded, the first so many are
//! the same, so that a larger world is the smaller one and more.
//!
//! - A block has 100 nodes with 100 pods each, 100 namespaces, and 1,000 policies. Ten of its namespaces are big and
//!   isolated as a whole; they have half of the pods.
//! - Pods look as a kubelet leaves them: containers with images, probes and resources, conditions, container states.
//!   What an agent does not need is most of what it is sent.
//! - Policies are about one app each, with peers by label in their own and in other namespaces, and blocks with
//!   exceptions; ports are numbers, ranges and names.
//!
//! Node 0 is the one that is measured.

use std::net::Ipv4Addr;

use podgate_bench::rng::Rng;
use serde_json::{Value, json};

/// Pods that come with each block of the others.
const BLOCK: usize = 10_000;
pub(crate) const PODS_PER_NODE: usize = 100;
const NAMESPACES: usize = 100;
const BIG: usize = 10;
const POLICIES: usize = 1_000;
const APPS_IN_BIG: usize = 50;
const APPS_IN_SMALL: usize = 10;
const TIERS: [&str; 5] = ["web", "api", "db", "cache", "job"];
const STAGES: [&str; 3] = ["prod", "staging", "dev"];
const TEAMS: usize = 20;
const SEED: u64 = 20;

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) pods: usize,
    pub(crate) policies: usize,
}

impl Size {
    /// A cluster of so many pods: one policy for ten of them.
    pub(crate) fn of_pods(pods: usize) -> Self {
        Size { pods, policies: pods * POLICIES / BLOCK }
    }

    pub(crate) fn nodes(self) -> usize {
        self.pods.div_ceil(PODS_PER_NODE)
    }

    pub(crate) fn namespaces(self) -> usize {
        self.pods.div_ceil(BLOCK) * NAMESPACES
    }
}

/// A pod's place in the cluster.
#[derive(Debug, Clone, Copy)]
struct Place {
    namespace: usize,
    app: usize,
}

fn place(pod: usize) -> Place {
    let rng = &mut Rng::keyed(SEED, pod as u64);
    let first = pod / BLOCK * NAMESPACES;
    match rng.percent(50) {
        true => Place { namespace: first + rng.below(BIG), app: rng.below(APPS_IN_BIG) },
        false => Place { namespace: first + BIG + rng.below(NAMESPACES - BIG), app: rng.below(APPS_IN_SMALL) },
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// A node's own address.
pub(crate) fn node_address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, (node / 250) as u8, 1 + (node % 250) as u8)
}

/// The range of a node's pods: a /24.
pub(crate) fn pod_range(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64 + (node / 256) as u8, (node % 256) as u8, 0)
}

pub(crate) fn pod_address(pod: usize) -> Ipv4Addr {
    let (node, slot) = (pod / PODS_PER_NODE, pod % PODS_PER_NODE);
    Ipv4Addr::from(u32::from(pod_range(node)) + 2 + slot as u32)
}

pub(crate) fn node(node: usize) -> Value {
    let range = format!("{}/24", pod_range(node));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(node), "labels": {
            "kubernetes.io/hostname": node_name(node), "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": format!("zone-{}", node % 3),
        }},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": node_address(node).to_string()}, {"type": "Hostname", "address": node_name(node)},
        ]},
    })
}

pub(crate) fn namespace_name(namespace: usize) -> String {
    format!("ns-{namespace}")
}

pub(crate) fn namespace(index: usize) -> Value {
    let labels = json!({"team": format!("team-{}", index % TEAMS), "stage": STAGES[index % STAGES.len()]});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_name(index), "labels": labels}})
}

pub(crate) fn pod_namespace(pod: usize) -> String {
    namespace_name(place(pod).namespace)
}

/// A pod's name; `life` counts how often it was replaced.
pub(crate) fn pod_name(pod: usize, life: u32) -> String {
    let Place { namespace, app } = place(pod);
    let hash = Rng::keyed(SEED ^ 7, (pod as u64) << 16 | u64::from(life)).next() & 0xf_ffff;
    format!("app-{app}-{:08x}-{hash:05x}", template_hash(namespace, app))
}

fn template_hash(namespace: usize, app: usize) -> u32 {
    Rng::keyed(SEED ^ 5, (namespace * 1_000 + app) as u64).next() as u32
}

/// A pod as its owner creates it, bound to its node.
pub(crate) fn pod(pod: usize, life: u32) -> Value {
    let Place { namespace, app } = place(pod);
    let rng = &mut Rng::keyed(SEED ^ 1, pod as u64);
    let name = pod_name(pod, life);
    let mut labels = json!({
        "app": format!("app-{app}"), "app.kubernetes.io/part-of": format!("shop-{}", namespace % TEAMS),
        "tier": TIERS[app % TIERS.len()], "track": if rng.percent(10) { "canary" } else { "stable" },
        "pod-template-hash": format!("{:08x}", template_hash(namespace, app)),
    });
    if rng.percent(10) {
        labels["statefulset.kubernetes.io/pod-name"] = json!(format!("app-{app}-{pod}"));
        labels["apps.kubernetes.io/pod-index"] = json!((pod % 10).to_string());
    }
    let http = 8080 + app % 10;
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 1});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace_name(namespace), "labels": labels,
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{app}-{:08x}", template_hash(namespace, app)),
                "uid": format!("00000000-0000-4000-8000-{:012x}", namespace * 1_000 + app), "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": node_name(pod / PODS_PER_NODE), "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "main", "image": format!("registry.example/shop/app-{app}:v1.{}.3", app % 7),
                "ports": [{"name": "http", "containerPort": http}, {"name": "metrics", "containerPort": 9090}],
                "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": probe, "livenessProbe": probe,
                "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": format!("app-{app}")}}],
        },
    })
}

/// What a kubelet says of the pod once it runs.
pub(crate) fn pod_status(pod: usize) -> Value {
    let address = pod_address(pod).to_string();
    let host = node_address(pod / PODS_PER_NODE).to_string();
    let app = place(pod).app;
    let since = "2026-01-01T00:00:00Z";
    let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": since});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let image = format!("registry.example/shop/app-{app}:v1.{}.3", app % 7);
    json!({"status": {
        "phase": "Running", "hostIP": host, "hostIPs": [{"ip": host}], "podIP": address, "podIPs": [{"ip": address}], "startTime": since,
        "conditions": conditions,
        "containerStatuses": [{
            "name": "main", "ready": true, "started": true, "restartCount": 0, "image": image,
            "imageID": format!("{image}@sha256:{:064x}", app), "containerID": format!("containerd://{:064x}", pod),
            "state": {"running": {"startedAt": since}}, "lastState": {},
        }],
    }})
}

/// Namespace and object of the `k`-th policy. The first ten of a block are about everything in a big namespace, the others
/// about one app each.
pub(crate) fn policy(k: usize) -> (String, Value) {
    let rng = &mut Rng::keyed(SEED ^ 2, k as u64);
    let (block, within) = (k / POLICIES, k % POLICIES);
    let first = block * NAMESPACES;
    let (namespace, subject) = if within < BIG {
        (first + within, json!({}))
    } else if rng.percent(50) {
        (first + rng.below(BIG), json!({"matchLabels": {"app": format!("app-{}", rng.below(APPS_IN_BIG))}}))
    } else {
        let app = json!({"matchLabels": {"app": format!("app-{}", rng.below(APPS_IN_SMALL))}});
        (first + BIG + rng.below(NAMESPACES - BIG), app)
    };
    let ingress: Vec<Value> = (0..1 + rng.below(3)).map(|_| rule(rng, "from")).collect();
    let mut spec = json!({"podSelector": subject, "policyTypes": ["Ingress"], "ingress": ingress});
    if rng.percent(30) {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        spec["egress"] = (0..1 + rng.below(2)).map(|_| rule(rng, "to")).chain([to_dns()]).collect();
    }
    let namespace = namespace_name(namespace);
    let metadata = json!({"name": format!("policy-{k}"), "namespace": namespace});
    (
        namespace,
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}),
    )
}

fn rule(rng: &mut Rng, peers: &str) -> Value {
    let of: Vec<Value> = (0..1 + rng.below(3)).map(|_| if rng.percent(25) { block(rng) } else { pods(rng) }).collect();
    let mut rule = json!({peers: of});
    let tcp = |port: Value| json!({"protocol": "TCP", "port": port});
    match rng.below(5) {
        0 => rule["ports"] = json!([tcp(json!("http"))]),
        1 => {
            let range = json!({"protocol": "TCP", "port": 8080, "endPort": 8080 + rng.below(10)});
            rule["ports"] = json!([range, tcp(json!("metrics"))]);
        }
        2 | 3 => rule["ports"] = json!([tcp(json!(*rng.pick(&[80, 443, 5432, 6379, 9092, 3306])))]),
        _ => {}
    }
    rule
}

fn to_dns() -> Value {
    let dns = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ns-99"}}, "podSelector": {"matchLabels": {"tier": "api"}}});
    json!({"to": [dns], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]})
}

fn pods(rng: &mut Rng) -> Value {
    let labels = match rng.below(3) {
        0 => json!({"matchLabels": {"app": format!("app-{}", rng.below(APPS_IN_BIG))}}),
        1 => json!({"matchLabels": {"tier": TIERS[rng.below(TIERS.len())]}}),
        _ => json!({"matchExpressions": [
            {"key": "tier", "operator": "In", "values": [TIERS[rng.below(5)], TIERS[rng.below(5)]]},
            {"key": "track", "operator": "NotIn", "values": ["canary"]},
        ]}),
    };
    match rng.below(3) {
        0 => {
            json!({"podSelector": labels, "namespaceSelector": {"matchLabels": {"team": format!("team-{}", rng.below(TEAMS))}}})
        }
        1 => {
            json!({"podSelector": labels, "namespaceSelector": {"matchLabels": {"stage": STAGES[rng.below(STAGES.len())]}}})
        }
        _ => json!({"podSelector": labels}),
    }
}

/// A block of the outside world or of the pods' own ranges, mostly with a part taken out.
fn block(rng: &mut Rng) -> Value {
    let (address, length) = match rng.percent(50) {
        true => (Ipv4Addr::new(10, 64 + rng.below(4) as u8, rng.below(256) as u8, 0), 20 + rng.below(5)),
        false => (Ipv4Addr::from(rng.next() as u32), 12 + rng.below(13)),
    };
    let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - length)));
    let mut block = json!({"cidr": format!("{network}/{length}")});
    if rng.percent(60) {
        block["except"] = json!([format!("{network}/{}", length + 2)]);
    }
    json!({"ipBlock": block})
}
