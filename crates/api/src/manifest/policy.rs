//! `networking.k8s.io/v1` NetworkPolicy to [`PolicySpec`], with the API server's defaults and its validation.

use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::meta;
use super::path::Path;
use super::report::{Issue, Report};
use super::tree::Node;
use super::validate::{self, Wrong};
use crate::{Action, IpBlock, NamespaceMatch, Peer, Peers, PolicySpec, PortMatch, Rule, Subject, Tier};

/// Reads a NetworkPolicy. What is wrong goes to the report; the result counts only if that stays clean.
pub(super) fn read(object: &Node<'_>, header: &Header, report: &mut Report) -> Option<PolicySpec> {
    envelope(object, header, report);
    let spec: Option<net::NetworkPolicySpec> = decode::field(object, "spec", Unknown::Refuse, report);
    Some(convert(header, &spec?, &mut |path, message| report.at(object, path, message)))
}

/// What stands around a policy's spec. A `status` is passed over: Kubernetes 1.24 to 1.27 had one, and what was
/// written with their types carries `status: {}`; it never had a meaning for traffic.
pub(super) fn envelope(object: &Node<'_>, header: &Header, report: &mut Report) {
    for entry in object.entries().iter().filter(|entry| entry.key != "status") {
        if !matches!(&*entry.key, "apiVersion" | "kind" | "metadata" | "spec") {
            let message = "unknown field; what may stand here: apiVersion, kind, metadata, spec".to_owned();
            report.push(Issue { line: entry.line, field: Path::Root.key(&entry.key).to_string(), message });
        }
    }
    let metadata: Option<ObjectMeta> = decode::field(object, "metadata", Unknown::Refuse, report);
    if let Some(metadata) = metadata {
        meta::check(object, header, &metadata.labels.unwrap_or_default(), report);
    }
}

/// A policy's spec in the one shape of all policies. Complaints go to `wrong`.
pub(super) fn convert(
    header: &Header,
    spec: &net::NetworkPolicySpec,
    wrong: &mut impl FnMut(&Path<'_>, Wrong),
) -> PolicySpec {
    let path = Path::Root.key("spec");
    let (isolates_ingress, isolates_egress) = policy_types(&path, spec, wrong);
    let ingress_path = path.key("ingress");
    let mut ingress: Vec<_> = (spec.ingress.iter().flatten().enumerate())
        .map(|(i, each)| rule(&ingress_path.index(i), "from", each.from.as_deref(), each.ports.as_deref(), wrong))
        .collect();
    let egress_path = path.key("egress");
    let mut egress: Vec<_> = (spec.egress.iter().flatten().enumerate())
        .map(|(i, each)| rule(&egress_path.index(i), "to", each.to.as_deref(), each.ports.as_deref(), wrong))
        .collect();
    if !isolates_ingress {
        ingress.clear();
    }
    if !isolates_egress {
        egress.clear();
    }
    PolicySpec {
        key: header.key.clone(),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject {
            namespaces: NamespaceMatch::Own,
            pods: validate::selector(&path.key("podSelector"), spec.pod_selector.as_ref(), wrong),
        },
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
        caveats: Vec::new(),
    }
}

/// The directions a policy is about: as `policyTypes` says, and where it says nothing, ingress, and egress if there
/// are rules for it.
fn policy_types(
    path: &Path<'_>,
    spec: &net::NetworkPolicySpec,
    wrong: &mut impl FnMut(&Path<'_>, Wrong),
) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
    }
    let path = path.key("policyTypes");
    if types.len() > 2 {
        wrong(&path, "has more than the two types there are, Ingress and Egress".to_owned());
    }
    for (i, each) in types.iter().enumerate() {
        if !matches!(each.as_str(), "Ingress" | "Egress") {
            wrong(&path.index(i), format!("{each:?} is no policy type: Ingress or Egress"));
        }
    }
    let has = |name: &str| types.iter().any(|each| each == name);
    (has("Ingress"), has("Egress"))
}

fn rule(
    path: &Path<'_>,
    peers_key: &str,
    peers: Option<&[net::NetworkPolicyPeer]>,
    ports: Option<&[net::NetworkPolicyPort]>,
    wrong: &mut impl FnMut(&Path<'_>, Wrong),
) -> Rule {
    let (peers_path, ports_path) = (path.key(peers_key), path.key("ports"));
    let peers = match peers.unwrap_or_default() {
        [] => Peers::Any,
        peers => Peers::Of(
            (peers.iter().enumerate()).filter_map(|(i, each)| peer(&peers_path.index(i), each, wrong)).collect(),
        ),
    };
    let ports = (ports.unwrap_or_default().iter().enumerate())
        .filter_map(|(i, each)| port(&ports_path.index(i), each, wrong))
        .collect();
    Rule { name: None, action: Action::Accept, peers, ports }
}

fn peer(path: &Path<'_>, peer: &net::NetworkPolicyPeer, wrong: &mut impl FnMut(&Path<'_>, Wrong)) -> Option<Peer> {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        None if !selects => {
            let message = "must name a peer: podSelector, namespaceSelector or ipBlock ({} in one of the selectors \
                           means every pod, or every namespace)";
            wrong(path, message.to_owned());
            None
        }
        Some(_) if selects => {
            wrong(path, "ipBlock can't stand beside a selector; make two items of them".to_owned());
            None
        }
        Some(block) => ip_block(&path.key("ipBlock"), block, wrong).map(Peer::Block),
        None => {
            let pods = validate::selector(&path.key("podSelector"), peer.pod_selector.as_ref(), wrong);
            let namespaces = match &peer.namespace_selector {
                None => NamespaceMatch::Own,
                some => {
                    NamespaceMatch::Labels(validate::selector(&path.key("namespaceSelector"), some.as_ref(), wrong))
                }
            };
            Some(Peer::Pods { namespaces, pods })
        }
    }
}

fn ip_block(path: &Path<'_>, block: &net::IPBlock, wrong: &mut impl FnMut(&Path<'_>, Wrong)) -> Option<IpBlock> {
    let cidr = validate::cidr(&block.cidr).map_err(|message| wrong(&path.key("cidr"), message)).ok()?;
    let list = path.key("except");
    let except = (block.except.iter().flatten().enumerate())
        .filter_map(|(i, text)| validate::except(&cidr, text).map_err(|message| wrong(&list.index(i), message)).ok())
        .collect();
    Some(IpBlock { cidr, except })
}

fn port(path: &Path<'_>, port: &net::NetworkPolicyPort, wrong: &mut impl FnMut(&Path<'_>, Wrong)) -> Option<PortMatch> {
    let protocol = match &port.protocol {
        None => Ok(Default::default()),
        Some(name) => validate::protocol(name).map_err(|message| wrong(&path.key("protocol"), message)),
    };
    let matched = match (&port.port, port.end_port) {
        (None, None) => Ok((0, 65535)),
        (Some(IntOrString::Int(first)), end) => {
            let valid = validate::port_number(*first).map_err(|message| wrong(&path.key("port"), message));
            let end_path = path.key("endPort");
            let last = match end {
                None => valid,
                Some(end) if end < *first => {
                    wrong(&end_path, format!("must not be less than port, but {end} < {first}"));
                    Err(())
                }
                Some(end) => validate::port_number(end).map_err(|message| wrong(&end_path, message)),
            };
            valid.and_then(|first| Ok((first, last?)))
        }
        (Some(IntOrString::String(name)), None) => {
            validate::port_name(name).map_err(|message| wrong(&path.key("port"), message)).ok()?;
            return Some(PortMatch::Named { protocol: protocol.ok()?, name: name.clone() });
        }
        (_, Some(_)) => {
            wrong(&path.key("endPort"), "needs a port that is a number: the first one of the range".to_owned());
            Err(())
        }
    };
    let (first, last) = matched.ok()?;
    Some(PortMatch::Range { protocol: protocol.ok()?, first, last })
}
