//! What podgate is given: a node with a client and a server, and policies that let the one reach the other.
//!
//! With two policies: one about the server's ingress, one about the client's egress. With more, half of the others are
//! about the server and half about pods of other nodes, and none of them lets the client in; the one that lets it in
//! comes last by name. Pods that have no part in the measurement are all on another node.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use podgate_sandbox::{Host, Pod, PodOptions};

use crate::load::datagrams::PORTS;

/// Policies and pods in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    /// Policies, the two that matter among them.
    pub(crate) policies: usize,
    /// Pods, those of the side among them.
    pub(crate) pods: usize,
}

/// The port of connections.
pub(crate) const TCP: u16 = 8000;
/// A port that no policy allows, and where somebody listens.
pub(crate) const FORBIDDEN: u16 = 8001;
/// The port that swallows bytes.
pub(crate) const BULK: u16 = 8002;
/// A port that no policy allows, and where nobody listens: what is flooded.
pub(crate) const CLOSED: u16 = 8003;
/// The first address of pods that have no part.
const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// Writes the world into a directory.
pub(crate) fn write(directory: &Path, host: &Host, pods: &[&Pod], size: Size) -> io::Result<()> {
    let mut text = host.manifest();
    pods.iter().for_each(|pod| text += &pod.manifest());
    fs::write(directory.join("node.yaml"), text)?;

    let mut text = String::new();
    for other in pods.len()..size.pods {
        let address = Ipv4Addr::from_bits(OTHERS.to_bits() + other as u32);
        let app = format!("other-{}", other % 500);
        let pod = PodOptions::new(&format!("bench/other-{other}")).label("app", &app).address(address);
        text += &pod.manifest("elsewhere");
    }
    fs::write(directory.join("others.yaml"), text)?;

    let ports = ports();
    let mut text = policy("zz-server", "server", "Ingress", "ingress", "from", "client", &ports);
    text += &policy("zz-client", "client", "Egress", "egress", "to", "server", &ports);
    for further in 2..size.policies {
        let subject = if further % 2 == 0 { "server".to_owned() } else { format!("other-{}", further % 500) };
        let name = format!("further-{further}");
        text +=
            &policy(&name, &subject, "Ingress", "ingress", "from", &format!("other-{}", (further * 7) % 500), &ports);
    }
    fs::write(directory.join("policies.yaml"), text)
}

fn ports() -> String {
    let mut text = format!("    - {{protocol: TCP, port: {TCP}}}\n    - {{protocol: TCP, port: {BULK}}}\n");
    let (first, last) = (PORTS[0], PORTS[PORTS.len() - 1]);
    let _ = writeln!(text, "    - {{protocol: UDP, port: {first}, endPort: {last}}}");
    text
}

fn policy(name: &str, subject: &str, kind: &str, direction: &str, peers: &str, peer: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {subject}}}}}\n  policyTypes: [{kind}]\n  {direction}:\n  \
         - {peers}:\n    - podSelector: {{matchLabels: {{app: {peer}}}}}\n    ports:\n{ports}"
    )
}
