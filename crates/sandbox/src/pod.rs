//! [`Pod`]: a network namespace on a host, with addresses and labels; it can render its own manifest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::host::INSIDE;
use crate::rtnl::Link;
use crate::{Bridge, Client, Error, Host, Netns, Server};

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses in the order of `status.podIPs`; none: the next free of each pod range of the host.
    pub addresses: Vec<IpAddr>,
    /// Named container ports: name, number, protocol.
    pub ports: Vec<(String, u16, String)>,
    /// The bridge it is on; `None`: routed by the host.
    pub bridge: Option<Bridge>,
}

impl PodOptions {
    /// A pod by `namespace/name` (without a slash: in namespace `default`).
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        PodOptions {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            bridge: None,
        }
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a further address.
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// With a named container port; `protocol` is `TCP`, `UDP` or `SCTP`.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, protocol: &str) -> Self {
        self.ports.push((name.to_owned(), number, protocol.to_owned()));
        self
    }

    /// On a bridge.
    #[must_use]
    pub fn on(mut self, bridge: &Bridge) -> Self {
        self.bridge = Some(bridge.clone());
        self
    }

    /// The Pod object on `node`, running, as YAML text that begins with `---`.
    pub fn manifest(&self, node: &str) -> String {
        let mut text = format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n",
            self.name, self.namespace
        );
        if !self.labels.is_empty() {
            text.push_str("  labels:\n");
            for (key, value) in &self.labels {
                let _ = writeln!(text, "    {key}: \"{value}\"");
            }
        }
        let _ = write!(text, "spec:\n  nodeName: {node}\n  containers:\n  - name: main\n    image: none\n");
        if !self.ports.is_empty() {
            text.push_str("    ports:\n");
            for (name, number, protocol) in &self.ports {
                let _ = writeln!(text, "    - {{name: {name}, containerPort: {number}, protocol: {protocol}}}");
            }
        }
        text.push_str("status:\n  phase: Running\n");
        if let Some(first) = self.addresses.first() {
            let _ = write!(text, "  podIP: \"{first}\"\n  podIPs:\n");
            for address in &self.addresses {
                let _ = writeln!(text, "  - ip: \"{address}\"");
            }
        }
        text
    }
}

/// A running pod. Dropped, its link goes away, and with it its routes on the host.
#[derive(Debug)]
pub struct Pod {
    host: Host,
    netns: Netns,
    options: PodOptions,
    link: Link,
}

impl Pod {
    /// An address that another pod has is taken over: the host's route leads here from now on.
    pub(crate) fn new(host: &Host, mut options: PodOptions) -> Result<Self, Error> {
        let netns = Netns::new(&options.name)?;
        match options.addresses.is_empty() {
            true => options.addresses = host.next_addresses(),
            false => host.reserve(&options.addresses),
        }
        let link = match &options.bridge {
            Some(bridge) => bridge.attach(&netns, &options.addresses)?,
            None => host.attach(&netns, &options.addresses)?,
        };
        Ok(Pod { host: host.clone(), netns, options, link })
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }

    /// What it was made from, with its addresses.
    pub fn options(&self) -> &PodOptions {
        &self.options
    }

    /// What it is to be from now on in manifests: labels can change while it runs.
    pub fn options_mut(&mut self) -> &mut PodOptions {
        &mut self.options
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The host it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.options.addresses
    }

    /// Its first address.
    ///
    /// # Panics
    /// On a host without pod ranges, for a pod that was given none.
    pub fn ip(&self) -> IpAddr {
        self.options.addresses[0]
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    /// If it has none.
    pub fn v4(&self) -> IpAddr {
        self.of_family(true)
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// If it has none.
    pub fn v6(&self) -> IpAddr {
        self.of_family(false)
    }

    fn of_family(&self, v4: bool) -> IpAddr {
        let found = self.options.addresses.iter().copied().find(|a| a.is_ipv4() == v4);
        found.unwrap_or_else(|| panic!("{} has no address of that family", self.full_name()))
    }

    /// A client in the pod.
    pub fn client(&self) -> Client {
        self.netns.client()
    }

    /// A server in the pod that answers with the pod's name.
    ///
    /// # Errors
    /// [`Error::Network`] if a port is taken.
    pub fn server(&self, tcp: &[u16], udp: &[u16]) -> Result<Server, Error> {
        Server::start(&self.netns, &self.full_name(), self.addresses(), tcp, udp)
    }

    /// The hardware address of the host's end of its link: where frames that leave the pod go.
    pub fn gateway_mac(&self) -> [u8; 6] {
        self.link.mac
    }

    /// The hardware address of its own end.
    ///
    /// # Errors
    /// [`Error::Network`] if the link is gone.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let what = || format!("find {INSIDE} of {}", self.full_name());
        self.netns.rtnl(|r| r.link(INSIDE)).map(|l| l.mac).map_err(Error::network(what()))
    }

    /// The Pod object, as YAML text that begins with `---`.
    pub fn manifest(&self) -> String {
        self.options.manifest(self.host.name())
    }

    /// Takes its link away as a CNI does when the pod's sandbox ends, while its Pod object may still be there.
    pub fn unplug(&self) {
        // Gone already (dropped twice, or by hand) is as well.
        let _ = self.host.netns().rtnl(|r| r.remove_link(self.link.index));
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.unplug();
    }
}
