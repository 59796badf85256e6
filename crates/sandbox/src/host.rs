//! [`Host`]: a node as a network namespace that routes between its pods, other hosts and the outside. Not here: what
//! a pod is made of (`pod`), bridges (`bridge`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::rtnl::{LINK_GATEWAY, Link, Route, Rtnl};
use crate::{Error, Netns, Pod, PodOptions, Server};

/// What a host is to be.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The node's name.
    pub name: String,
    /// Its own addresses; the first of each family is its source towards pods.
    pub addresses: Vec<IpAddr>,
    /// Its pod ranges, one of each family it has. The first address of each is the gateway.
    pub pod_ranges: Vec<IpNet>,
}

impl HostOptions {
    /// Node `number` of a little cluster: addresses 192.168.77.N and fd00:77::N, pods in 10.244.N.0/24 and
    /// fd00:10:244:N::/64.
    pub fn numbered(name: &str, number: u8) -> Self {
        let group = u16::from(number);
        HostOptions {
            name: name.to_owned(),
            addresses: vec![
                Ipv4Addr::new(192, 168, 77, number).into(),
                Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, group).into(),
            ],
            pod_ranges: vec![
                Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24).into(),
                Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, group, 0, 0, 0, 0), 64).into(),
            ],
        }
    }
}

/// A node. Packets between its pods, its links and the outside are routed through its own network namespace, where an
/// agent can be started; the machine's own namespace is never touched.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: HostOptions,
    netns: Netns,
    links: AtomicU32,
    taken: Mutex<BTreeSet<IpAddr>>,
}

impl Host {
    /// A host that forwards both families.
    ///
    /// # Errors
    /// [`Error::Privilege`] without the rights, [`Error::Network`] where the kernel refuses a setting.
    pub fn new(options: HostOptions) -> Result<Self, Error> {
        let netns = Netns::new(&options.name)?;
        netns.sysctl("net.ipv4.ip_forward", "1")?;
        netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        // ICMP errors are part of what is tested: not one a second, but each.
        netns.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        netns.sysctl("net.ipv6.icmp.ratelimit", "0")?;
        netns.sysctl("net.ipv4.icmp_msgs_per_sec", "100000")?;
        for address in &options.addresses {
            netns
                .rtnl(|r| r.add_address(1, IpNet::from(*address), false))
                .map_err(Error::network(format!("give {} the address {address}", options.name)))?;
        }
        let gateways = options.pod_ranges.iter().map(gateway).collect();
        let inner = Inner { options, netns, links: AtomicU32::new(0), taken: Mutex::new(gateways) };
        Ok(Host { inner: Arc::new(inner) })
    }

    /// Node 1 of [`HostOptions::numbered`].
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn single(name: &str) -> Result<Self, Error> {
        Host::new(HostOptions::numbered(name, 1))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// Its own addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.options.addresses
    }

    /// Its pod ranges.
    pub fn pod_ranges(&self) -> &[IpNet] {
        &self.inner.options.pod_ranges
    }

    /// Its address of the family that `other` is of.
    pub fn address_towards(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses().iter().copied().find(|a| a.is_ipv4() == other.is_ipv4())
    }

    /// A pod on this host.
    ///
    /// # Errors
    /// [`Error::Network`] where the kernel refuses a link, address or route.
    pub fn pod(&self, options: PodOptions) -> Result<Pod, Error> {
        Pod::new(self, options)
    }

    /// A namespace beyond the host with these addresses, which no pod range has: the outside world.
    ///
    /// # Errors
    /// As [`Host::pod`].
    pub fn outside(&self, name: &str, addresses: &[IpAddr]) -> Result<Outside, Error> {
        let netns = Netns::new(name)?;
        let link = self.attach(&netns, addresses)?;
        Ok(Outside { host: self.clone(), netns, addresses: addresses.to_vec(), link: link.index })
    }

    /// Links two hosts, and writes the routes between their pods and own addresses.
    ///
    /// # Errors
    /// [`Error::Network`] where the kernel refuses.
    pub fn link(&self, other: &Host) -> Result<(), Error> {
        let what = || format!("link {} and {}", self.name(), other.name());
        let (here, there) = (self.link_name(other.name()), other.link_name(self.name()));
        self.netns().rtnl(|r| r.veth(&here, &there, other.netns().file())).map_err(Error::network(what()))?;
        other
            .netns()
            .rtnl(|r| {
                let index = r.link(&there)?.index;
                r.up(index)
            })
            .map_err(Error::network(what()))?;
        for (host, name, far, side) in [(self, &here, other, 1u16), (other, &there, self, 2)] {
            let link = host.await_link(name)?;
            let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, side);
            let next = IpAddr::from(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 3 - side));
            host.netns()
                .rtnl(|r| r.add_address(link.index, Ipv6Net::new_assert(own, 64).into(), true))
                .map_err(Error::network(what()))?;
            let far_v4 = far.addresses().iter().copied().find(IpAddr::is_ipv4);
            let nets = far.addresses().iter().map(|a| IpNet::from(*a)).chain(far.pod_ranges().iter().copied());
            for net in nets {
                // IPv4 neighbours answer for any address of theirs, IPv6 ones only for those of the link.
                let via = if net.addr().is_ipv6() { Some(next) } else { far_v4.filter(|a| *a != net.addr()) };
                let route = Route { via, source: host.address_towards(net.addr()) };
                host.netns()
                    .rtnl(|r| r.set_route(net, link.index, route))
                    .map_err(Error::network(format!("{}: route {net}", what())))?;
            }
        }
        Ok(())
    }

    /// Whether packets that a bridge of this host forwards between its ports pass the IP hooks (br_netfilter).
    ///
    /// # Errors
    /// [`Error::Network`] on a kernel without br_netfilter.
    pub fn filter_bridged(&self, ipv4: bool, ipv6: bool) -> Result<(), Error> {
        let text = |on| if on { "1" } else { "0" };
        self.netns().sysctl("net.bridge.bridge-nf-call-iptables", text(ipv4))?;
        self.netns().sysctl("net.bridge.bridge-nf-call-ip6tables", text(ipv6))
    }

    /// A server on the host itself, reached at its own addresses.
    ///
    /// # Errors
    /// [`Error::Network`] if a port is taken.
    pub fn server(&self, tcp: &[u16], udp: &[u16]) -> Result<Server, Error> {
        Server::start(self.netns(), self.name(), self.addresses(), tcp, udp)
    }

    /// The Node object, as YAML text that begins with `---`.
    pub fn manifest(&self) -> String {
        let mut text =
            format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nspec:\n  podCIDRs:\n", self.name());
        for range in self.pod_ranges() {
            let _ = writeln!(text, "  - {range}");
        }
        text.push_str("status:\n  addresses:\n");
        for address in self.addresses() {
            let _ = writeln!(text, "  - {{type: InternalIP, address: \"{address}\"}}");
        }
        text
    }

    /// The next free address of each pod range.
    pub(crate) fn next_addresses(&self) -> Vec<IpAddr> {
        let mut taken = self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |range: &IpNet, taken: &mut BTreeSet<IpAddr>| {
            let address = (1..1 << 16).map(|n| nth(range, n)).find(|a| range.contains(a) && !taken.contains(a))?;
            taken.insert(address);
            Some(address)
        };
        self.pod_ranges().iter().filter_map(|r| free(r, &mut taken)).collect()
    }

    /// Keeps addresses that were chosen by hand from being given to others.
    pub(crate) fn reserve(&self, addresses: &[IpAddr]) {
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(addresses);
    }

    /// Connects a namespace by a veth pair: host routes to its addresses here, default routes to this host there.
    /// Returns this host's end.
    pub(crate) fn attach(&self, netns: &Netns, addresses: &[IpAddr]) -> Result<Link, Error> {
        let what = || format!("attach {} to {}", netns.name(), self.name());
        let near = self.link_name(netns.name());
        self.netns().rtnl(|r| r.veth(&near, INSIDE, netns.file())).map_err(Error::network(what()))?;
        let inside = inside_up(netns)?;
        let link = self.await_link(&near)?;
        let gateways = self.pod_ranges().iter().map(gateway).filter(IpAddr::is_ipv4);
        let gateway_v4 = gateways.chain(self.addresses().iter().copied()).find(IpAddr::is_ipv4);
        let link_local = IpNet::from(Ipv6Net::new_assert(LINK_GATEWAY, 64));
        self.netns()
            .rtnl(|r| {
                gateway_v4.map_or(Ok(()), |g| r.add_address(link.index, IpNet::from(g), false))?;
                r.add_address(link.index, link_local, true)?;
                addresses.iter().try_for_each(|a| {
                    let route = Route { via: None, source: self.address_towards(*a) };
                    r.set_route(IpNet::from(*a), link.index, route)
                })
            })
            .map_err(Error::network(what()))?;
        netns
            .rtnl(|r| {
                addresses.iter().try_for_each(|a| r.add_address(inside.index, IpNet::from(*a), false))?;
                if let Some(gateway) = gateway_v4.filter(|_| addresses.iter().any(IpAddr::is_ipv4)) {
                    r.set_route(IpNet::from(gateway), inside.index, Route::default())?;
                    r.set_route(EVERYWHERE_V4, inside.index, Route { via: Some(gateway), source: None })?;
                }
                if addresses.iter().any(IpAddr::is_ipv6) {
                    r.set_route(EVERYWHERE_V6, inside.index, Route { via: Some(LINK_GATEWAY.into()), source: None })?;
                }
                Ok(())
            })
            .map_err(Error::network(what()))?;
        Ok(link)
    }

    /// A name for a link, within the kernel's 15 characters.
    pub(crate) fn link_name(&self, far: &str) -> String {
        let number = self.inner.links.fetch_add(1, Ordering::Relaxed);
        let mut name = format!("v{number}-");
        name.extend(far.chars().filter(char::is_ascii_alphanumeric).take(15 - name.len().min(15)));
        name
    }

    pub(crate) fn await_link(&self, name: &str) -> Result<Link, Error> {
        let found = self.netns().rtnl(|r| r.await_link(name)).map_err(Error::network(format!("find link {name}")))?;
        found.ok_or_else(|| Error::LinkDown(name.to_owned()))
    }
}

/// The name of a pod's own link.
pub(crate) const INSIDE: &str = "eth0";
pub(crate) const EVERYWHERE_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
pub(crate) const EVERYWHERE_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));

/// Brings the link of an attached namespace up.
pub(crate) fn inside_up(netns: &Netns) -> Result<Link, Error> {
    let up = |r: &mut Rtnl| {
        let index = r.link(INSIDE)?.index;
        r.up(index)?;
        r.await_link(INSIDE)
    };
    let found = netns.rtnl(up).map_err(Error::network(format!("find {INSIDE}")))?;
    found.ok_or_else(|| Error::LinkDown(format!("{INSIDE} of {}", netns.name())))
}

/// A range's first address.
pub(crate) fn gateway(range: &IpNet) -> IpAddr {
    nth(range, 1)
}

fn nth(range: &IpNet, n: u32) -> IpAddr {
    match range {
        IpNet::V4(r) => Ipv4Addr::from(u32::from(r.network()).wrapping_add(n)).into(),
        IpNet::V6(r) => Ipv6Addr::from(u128::from(r.network()).wrapping_add(n.into())).into(),
    }
}

/// The world beyond a host.
#[derive(Debug)]
pub struct Outside {
    host: Host,
    netns: Netns,
    addresses: Vec<IpAddr>,
    link: u32,
}

impl Outside {
    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// A server reached at every address.
    ///
    /// # Errors
    /// [`Error::Network`] if a port is taken.
    pub fn server(&self, tcp: &[u16], udp: &[u16]) -> Result<Server, Error> {
        Server::start(&self.netns, self.netns.name(), &self.addresses, tcp, udp)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.host.netns().rtnl(|r| r.remove_link(self.link));
    }
}
