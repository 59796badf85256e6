//! Pods: only the fields that decide verdicts are read.

use serde::Deserialize;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::meta;
use super::path::Path;
use super::report::Report;
use super::tree::Node;
use super::validate;
use crate::{ContainerPort, Phase, Pod};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Vec<Port>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: String,
    container_port: i32,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
    #[serde(rename = "hostIP")]
    host_ip: String,
    #[serde(rename = "hostIPs")]
    host_ips: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

/// Reads a Pod. What is wrong goes to the report; the result counts only if that stays clean.
pub(super) fn read(object: &Node<'_>, header: &Header, report: &mut Report) -> Option<Pod> {
    let metadata = meta::read(object, header, report);
    let spec: Option<Spec> = decode::field(object, "spec", Unknown::Ignore, report);
    let status: Option<Status> = decode::field(object, "status", Unknown::Ignore, report);
    let (metadata, spec, status) = (metadata?, spec?, status?);

    let created = metadata.creation_timestamp.and_then(|text| match text.parse() {
        Ok(time) => Some(time),
        Err(_) => {
            let message = format!("{text:?} is no valid time, such as 2026-01-31T12:00:00Z");
            report.at(object, &Path::Root.key("metadata").key("creationTimestamp"), message);
            None
        }
    });
    let status_path = Path::Root.key("status");
    let mut addresses = |one: &str, one_key: &str, several: &[Address], several_key: &str| {
        let mut found = Vec::new();
        let one_path = status_path.key(one_key);
        let several_path = status_path.key(several_key);
        let mut add = |path: &Path<'_>, text: &str| match validate::address(text) {
            Ok(address) if found.contains(&address) => {}
            Ok(address) => found.push(address),
            Err(message) => report.at(object, path, message),
        };
        for (i, address) in several.iter().enumerate() {
            add(&several_path.index(i).key("ip"), &address.ip);
        }
        // In a live cluster this is the first of the others; no address of a pod may be lost where it is not.
        if !one.is_empty() {
            add(&one_path, one);
        }
        found
    };
    let pod_addresses = addresses(&status.pod_ip, "podIP", &status.pod_ips, "podIPs");
    let host_addresses = addresses(&status.host_ip, "hostIP", &status.host_ips, "hostIPs");
    Some(Pod {
        namespace: header.key.namespace.clone(),
        name: header.key.name.clone(),
        uid: metadata.uid.filter(|uid| !uid.is_empty()),
        labels: metadata.labels,
        created,
        terminating: metadata.deletion_timestamp.is_some(),
        node: Some(spec.node_name.clone()).filter(|node| !node.is_empty()),
        host_network: spec.host_network,
        phase: match status.phase.as_str() {
            "Succeeded" | "Failed" => Phase::Finished,
            _ => Phase::Live,
        },
        addresses: pod_addresses,
        host_addresses,
        ports: ports(object, &spec, report),
    })
}

/// The named ports of what runs beside each other: ordinary containers and sidecars.
fn ports(object: &Node<'_>, spec: &Spec, report: &mut Report) -> Vec<ContainerPort> {
    let path = Path::Root.key("spec");
    let (ordinary, init) = (path.key("containers"), path.key("initContainers"));
    let containers = spec.containers.iter().enumerate().map(|(i, container)| (container, ordinary.index(i)));
    let sidecars = (spec.init_containers.iter().enumerate())
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(i, container)| (container, init.index(i)));
    let mut ports = Vec::new();
    for (container, path) in containers.chain(sidecars) {
        for (i, port) in container.ports.iter().enumerate() {
            let list = path.key("ports");
            let path = list.index(i);
            let mut wrong = |key: &str, message: String| report.at(object, &path.key(key), message);
            let number = validate::port_number(port.container_port).map_err(|m| wrong("containerPort", m));
            let protocol = port
                .protocol
                .as_deref()
                .filter(|p| !p.is_empty())
                .map_or(Ok(Default::default()), |p| validate::protocol(p).map_err(|m| wrong("protocol", m)));
            if port.name.is_empty() {
                continue;
            }
            let name = validate::port_name(&port.name).map_err(|m| wrong("name", m));
            if let (Ok(number), Ok(protocol), Ok(())) = (number, protocol, name) {
                ports.push(ContainerPort { name: port.name.clone(), protocol, number });
            }
        }
    }
    ports
}
