//! [`Cast`]: the pods of the examples as a sandbox, with a server wherever an expected flow leads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use podgate_api::{Object, manifest};
use podgate_sandbox::{Client, Host, HostOptions, Netns, Outside, Pod, PodOptions, Server};

use super::examples::{ALL, Example, PODS};

/// Everybody who takes part.
pub(super) struct Cast {
    host: Host,
    pods: BTreeMap<String, Pod>,
    outside: Outside,
    servers: Vec<Server>,
}

/// The addresses of the world outside.
const OUTSIDE: [&str; 3] = ["203.0.113.9", "203.0.113.66", "2001:db8::9"];

impl Cast {
    /// Makes the namespaces, links and servers.
    pub(super) fn assemble() -> Result<Self> {
        let parsed = manifest::parse("pods.yaml", PODS);
        if let Some(error) = parsed.errors.first() {
            bail!("the embedded pods are broken: {error}");
        }
        let (mut node, mut pods) = (None, Vec::new());
        for located in parsed.objects {
            match located.object {
                Object::Node(n) => node = Some(n),
                Object::Pod(p) => pods.push(p),
                Object::Namespace(_) | Object::Policy(_) => {}
            }
        }
        let node = node.context("the embedded pods have no node")?;
        let host = Host::new(HostOptions { name: node.name, addresses: node.addresses, pod_ranges: node.pod_cidrs })?;
        let mut made = BTreeMap::new();
        for pod in pods {
            let mut options = PodOptions::new(&format!("{}/{}", pod.namespace, pod.name));
            options.labels = pod.labels;
            options.addresses = pod.addresses;
            let pod = host.pod(options)?;
            made.insert(pod.full_name(), pod);
        }
        let addresses =
            OUTSIDE.map(|a| a.parse().context("an address")).into_iter().collect::<Result<Vec<IpAddr>>>()?;
        let outside = host.outside("outside", &addresses)?;
        let mut cast = Cast { host, pods: made, outside, servers: Vec::new() };
        cast.serve()?;
        Ok(cast)
    }

    /// Starts a server wherever some flow is expected to lead: what is denied must not fail for want of one.
    fn serve(&mut self) -> Result<()> {
        type Ports = BTreeMap<&'static str, BTreeSet<u16>>;
        let mut wanted: BTreeMap<&str, Ports> = BTreeMap::new();
        for flow in ALL.iter().flat_map(Example::flows) {
            if let Some(port) = flow.port {
                wanted.entry(flow.to).or_default().entry(flow.protocol).or_default().insert(port);
            }
        }
        for (to, ports) in wanted {
            let list = |protocol| ports.get(protocol).into_iter().flatten().copied().collect::<Vec<_>>();
            let (tcp, udp) = (list("TCP"), list("UDP"));
            let server = match (self.pods.get(to), self.host.addresses().iter().any(|a| a.to_string() == to)) {
                (Some(pod), _) => pod.server(&tcp, &udp)?,
                (None, true) => self.host.server(&tcp, &udp)?,
                (None, false) => self.outside.server(&tcp, &udp)?,
            };
            self.servers.push(server);
        }
        Ok(())
    }

    /// The node.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// How many pods there are.
    pub(super) fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Everybody's namespace, by a name that can be a file's.
    pub(super) fn namespaces(&self) -> Vec<(String, &Netns)> {
        let pods = self.pods.iter().map(|(name, pod)| (name.replace('/', "-"), pod.netns()));
        [("node".to_owned(), self.host.netns()), ("outside".to_owned(), self.outside.netns())]
            .into_iter()
            .chain(pods)
            .collect()
    }

    /// The pod, by `namespace/name`.
    pub(super) fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("there is no pod {name} in the demo"))
    }

    /// Whoever an end of a flow is, as a client.
    pub(super) fn client(&self, end: &str) -> Result<Client> {
        if let Some(pod) = self.pods.get(end) {
            return Ok(pod.client());
        }
        let address: IpAddr = end.parse().with_context(|| format!("{end} is neither a pod nor an address"))?;
        let netns = if self.host.addresses().contains(&address) { self.host.netns() } else { self.outside.netns() };
        Ok(netns.client().from(address))
    }

    /// The addresses of an end of a flow, in the order of `podIPs`.
    pub(super) fn addresses(&self, end: &str) -> Result<Vec<IpAddr>> {
        match self.pods.get(end) {
            Some(pod) => Ok(pod.addresses().to_vec()),
            None => Ok(vec![end.parse().with_context(|| format!("{end} is neither a pod nor an address"))?]),
        }
    }
}
