//! Which links lead to pods: those over which a network is reached that lies where pods are, without a gateway. What a
//! pod sends comes by its link, so what comes by one with a source that is not reached over it is forged.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

const RT_TABLE_LOCAL: u32 = 255;

/// Where the links of a network namespace lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// What is reached over a link without a gateway.
    direct: HashSet<Direct>,
    /// Links over which somebody who knows more is reached.
    uplinks: HashSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Direct {
    to: IpNet,
    table: u32,
    link: u32,
}

/// The unicast routes of a network namespace, as far as they tell that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    direct: HashSet<Direct>,
    /// Destinations and tables by link: of a router there may be very many.
    by_gateway: HashMap<u32, HashSet<(IpNet, u32)>>,
}

struct Route {
    at: Direct,
    gateway: bool,
}

impl Links {
    /// The links over which a network within one of `ranges`, or one of the addresses that `is_pod` knows, is reached
    /// without a gateway. One that has routes by way of a gateway too leads to others than pods, and is none of them.
    pub fn towards(&self, ranges: &[IpNet], is_pod: impl Fn(IpAddr) -> bool) -> BTreeSet<u32> {
        let leads = |to: &IpNet| {
            let whole = to.prefix_len() == to.max_prefix_len();
            ranges.iter().any(|range| range.contains(to)) || whole && is_pod(to.addr())
        };
        let direct = self.direct.iter().filter(|route| !self.uplinks.contains(&route.link));
        direct.filter(|route| leads(&route.to)).map(|route| route.link).collect()
    }
}

impl Routes {
    /// Where links lead by these.
    pub(crate) fn links(&self) -> Links {
        Links { direct: self.direct.clone(), uplinks: self.by_gateway.keys().copied().collect() }
    }

    /// Takes a notice in; true if [`links`](Self::links) are others by it.
    pub(crate) fn hear(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewRoute(route) => {
                let mut news = false;
                routes(route).into_iter().for_each(|route| news |= self.add(route));
                news
            }
            RouteNetlinkMessage::DelRoute(route) => {
                let mut news = false;
                routes(route).iter().for_each(|route| news |= self.remove(route));
                news
            }
            RouteNetlinkMessage::DelLink(link) => {
                let (before, index) = (self.direct.len(), link.header.index);
                self.direct.retain(|route| route.link != index);
                self.by_gateway.remove(&index).is_some() || self.direct.len() < before
            }
            _ => false,
        }
    }

    fn add(&mut self, Route { at, gateway }: Route) -> bool {
        if !gateway {
            return self.direct.insert(at);
        }
        let over = self.by_gateway.entry(at.link).or_default();
        over.insert((at.to, at.table)) && over.len() == 1
    }

    fn remove(&mut self, Route { at, gateway }: &Route) -> bool {
        if !gateway {
            return self.direct.remove(at);
        }
        let Some(over) = self.by_gateway.get_mut(&at.link) else { return false };
        over.remove(&(at.to, at.table));
        over.is_empty() && self.by_gateway.remove(&at.link).is_some()
    }
}

/// What a route tells of each link that it goes over.
fn routes(message: &RouteMessage) -> Vec<Route> {
    let Some(Unicast { to, table, link, hops, gateway }) = Unicast::of(message) else { return Vec::new() };
    // Nobody reaches a pod by several ways.
    let gateway = gateway || !hops.is_empty();
    link.into_iter().chain(hops).map(|link| Route { at: Direct { to, table, link }, gateway }).collect()
}

/// A unicast route, of any table but the kernel's own of local addresses.
pub(crate) struct Unicast {
    pub to: IpNet,
    pub table: u32,
    pub link: Option<u32>,
    /// The links of its several ways, if it has such.
    pub hops: Vec<u32>,
    pub gateway: bool,
}

impl Unicast {
    pub(crate) fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let mut to = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut link, mut hops, mut gateway, mut table) = (None, Vec::new(), false, u32::from(header.table));
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = IpAddr::V4(*v4),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = IpAddr::V6(*v6),
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
                RouteAttribute::MultiPath(ways) => hops.extend(ways.iter().map(|way| way.interface_index)),
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        let to = IpNet::new(to, header.destination_prefix_length).ok()?;
        let counts = header.kind == RouteType::Unicast && table != RT_TABLE_LOCAL;
        counts.then_some(Self { to, table, link, hops, gateway })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route((to, link, gateway): &(&str, u32, bool)) -> Route {
        Route { at: Direct { to: to.parse().unwrap(), table: 254, link: *link }, gateway: *gateway }
    }

    fn links(all: &[(&str, u32, bool)]) -> Links {
        let mut routes = Routes::default();
        for one in all {
            routes.add(route(one));
        }
        routes.links()
    }

    #[test]
    fn of_many_routes_over_an_uplink_only_the_first_and_the_end_of_the_last_are_news() {
        let mut routes = Routes::default();
        let [one, other] = [("192.0.2.0/24", 9, true), ("198.51.100.0/24", 9, true)];
        assert_eq!([one, other, one].map(|r| routes.add(route(&r))), [true, false, false]);
        assert_eq!([one, one, other, other].map(|r| routes.remove(&route(&r))), [false, false, true, false]);
        let pod = ("10.1.0.2/32", 3, false);
        assert!(routes.add(route(&pod)) && !routes.add(route(&pod)) && routes.remove(&route(&pod)));
        assert_eq!(routes, Routes::default());
    }

    #[test]
    fn links_that_lead_to_pods_are_told_from_uplinks() {
        let all = links(&[
            ("10.1.0.2/32", 3, false),
            ("fd01::2/128", 3, false),
            ("10.1.0.128/25", 4, false),
            // A pod out of the ranges, and somebody who is none.
            ("10.9.0.7/32", 5, false),
            ("10.9.0.8/32", 6, false),
            // The ranges' own route is wider than the ranges, or goes by a gateway.
            ("10.0.0.0/8", 7, false),
            ("10.1.0.64/26", 8, true),
            // The node's uplink, whose network lies in the ranges.
            ("10.1.0.0/28", 9, false),
            ("0.0.0.0/0", 9, true),
        ]);
        let ranges: Vec<IpNet> = ["10.1.0.0/24", "fd01::/64"].map(|range| range.parse().unwrap()).to_vec();
        let is_pod = |address: IpAddr| address.to_string() == "10.9.0.7";
        assert_eq!(all.towards(&ranges, is_pod), BTreeSet::from([3, 4, 5]));
        assert!(Links::default().towards(&ranges, is_pod).is_empty());
    }
}
