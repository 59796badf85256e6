//! [`Bridge`]: pods in one subnet on a bridge of the host, instead of a routed link each.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::{self, EVERYWHERE_V4, EVERYWHERE_V6, INSIDE};
use crate::rtnl::{Link, Route};
use crate::{Error, Host, Netns};

/// A bridge with the gateway addresses of its subnets.
#[derive(Debug, Clone)]
pub struct Bridge {
    host: Host,
    name: String,
    index: u32,
    gateways: Vec<IpNet>,
}

impl Host {
    /// A bridge whose subnets are the host's pod ranges. Packets that it forwards between its ports pass the IP hooks
    /// only with [`Host::filter_bridged`].
    ///
    /// # Errors
    /// [`Error::Network`] where the kernel refuses.
    pub fn bridge(&self, name: &str) -> Result<Bridge, Error> {
        let gateways: Vec<_> =
            self.pod_ranges().iter().map(|r| IpNet::new_assert(host::gateway(r), r.prefix_len())).collect();
        let index = self
            .netns()
            .rtnl(|r| {
                r.bridge(name)?;
                let index = r.link(name)?.index;
                gateways.iter().try_for_each(|g| r.add_address(index, *g, true))?;
                Ok(index)
            })
            .map_err(Error::network(format!("make bridge {name}")))?;
        Ok(Bridge { host: self.clone(), name: name.to_owned(), index, gateways })
    }
}

impl Bridge {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts a namespace on the bridge; returns the host's end.
    pub(crate) fn attach(&self, netns: &Netns, addresses: &[IpAddr]) -> Result<Link, Error> {
        let what = || format!("attach {} to bridge {}", netns.name(), self.name);
        let near = self.host.link_name(netns.name());
        let host = self.host.netns();
        host.rtnl(|r| {
            r.veth(&near, INSIDE, netns.file())?;
            let link = r.link(&near)?;
            r.enslave(link.index, self.index)
        })
        .map_err(Error::network(what()))?;
        let inside = host::inside_up(netns)?;
        let link = self.host.await_link(&near)?;
        self.host.await_link(&self.name)?;
        netns
            .rtnl(|r| {
                for address in addresses {
                    let gateway = self
                        .gateways
                        .iter()
                        .find(|g| g.contains(address))
                        .ok_or_else(|| std::io::Error::other(format!("{address} is in no subnet of the bridge")))?;
                    let own = IpNet::new_assert(*address, gateway.prefix_len());
                    r.add_address(inside.index, own, true)?;
                    let all = if address.is_ipv4() { EVERYWHERE_V4 } else { EVERYWHERE_V6 };
                    r.set_route(all, inside.index, Route { via: Some(gateway.addr()), source: None })?;
                }
                Ok(())
            })
            .map_err(Error::network(what()))?;
        Ok(link)
    }
}
