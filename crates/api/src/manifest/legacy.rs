//! `extensions/v1beta1` NetworkPolicy: the API of Kubernetes 1.3 to 1.15 as it was before it had egress. It has an
//! effect only in namespaces that are isolated by annotation.

use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::policy;
use super::report::Report;
use super::tree::Node;
use crate::PolicySpec;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    pod_selector: Option<LabelSelector>,
    ingress: Option<Vec<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rule {
    ports: Option<Vec<Port>>,
    from: Option<Vec<Peer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    protocol: Option<String>,
    port: Option<IntOrString>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Peer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
}

/// Reads a NetworkPolicy of the old API. What is wrong goes to the report; the result counts only if that stays
/// clean. The policy isolates nothing by itself: the namespace's annotation does.
pub(super) fn read(object: &Node<'_>, header: &Header, report: &mut Report) -> Option<PolicySpec> {
    policy::envelope(object, header, report);
    let mut fields = Report::default();
    let spec: Option<Spec> = decode::field(object, "spec", Unknown::Refuse, &mut fields);
    for mut issue in fields.into_issues() {
        let name = issue.field.rsplit('.').next().unwrap_or_default();
        if matches!(name, "egress" | "policyTypes" | "ipBlock" | "endPort") {
            issue.message = format!("{name} is not in extensions/v1beta1; use apiVersion: networking.k8s.io/v1");
        }
        report.push(issue);
    }
    let spec = modern(spec?);
    let spec = policy::convert(header, &spec, &mut |path, message| report.at(object, path, message));
    Some(PolicySpec { isolates_ingress: false, isolates_egress: false, ..spec })
}

/// The same rules in the shape of the API that came after.
fn modern(spec: Spec) -> net::NetworkPolicySpec {
    let peer = |peer: Peer| net::NetworkPolicyPeer {
        pod_selector: peer.pod_selector,
        namespace_selector: peer.namespace_selector,
        ip_block: None,
    };
    let port = |port: Port| net::NetworkPolicyPort { protocol: port.protocol, port: port.port, end_port: None };
    let rule = |rule: Rule| net::NetworkPolicyIngressRule {
        from: rule.from.map(|peers| peers.into_iter().map(peer).collect()),
        ports: rule.ports.map(|ports| ports.into_iter().map(port).collect()),
    };
    net::NetworkPolicySpec {
        pod_selector: spec.pod_selector,
        ingress: spec.ingress.map(|rules| rules.into_iter().map(rule).collect()),
        egress: None,
        policy_types: None,
    }
}
