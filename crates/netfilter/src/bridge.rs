//! Pods on a bridge: packets between two of them reach the IP hooks only with br_netfilter. Without it their traffic
//! would not be judged, silently; so it is turned on, or told why it can't be.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::netlink::Channel;
use crate::routes::decode;

/// Are packets between bridged pods seen?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeState {
    /// None of the addresses is reached through a bridge.
    NoBridge,
    /// br_netfilter was on already.
    Filtered,
    /// br_netfilter was off for at least one family and is on now.
    TurnedOn,
    /// Packets between pods of a bridge pass unseen.
    Unfiltered {
        /// Why, and what to do.
        reason: String,
    },
}

/// Looks whether any of the local pod `addresses` is reached through a bridge, and turns br_netfilter on for its family if
/// it is off.
pub fn ensure_bridged_filtered(addresses: &[IpAddr]) -> Result<BridgeState, Error> {
    let mut channel = Channel::open(NETLINK_ROUTE)?;
    let bridges = bridges(&mut channel)?;
    if bridges.is_empty() {
        return Ok(BridgeState::NoBridge);
    }
    let mut families = HashSet::new();
    for address in addresses {
        if !families.contains(&address.is_ipv4())
            && link_to(&mut channel, *address)?.is_some_and(|l| bridges.contains(&l))
        {
            families.insert(address.is_ipv4());
        }
    }
    let mut state = if families.is_empty() { BridgeState::NoBridge } else { BridgeState::Filtered };
    for (v4, switch) in [(true, "bridge-nf-call-iptables"), (false, "bridge-nf-call-ip6tables")] {
        if families.contains(&v4) {
            match turn_on(switch) {
                Ok(true) => state = BridgeState::TurnedOn,
                Ok(false) => {}
                Err(reason) => return Ok(BridgeState::Unfiltered { reason }),
            }
        }
    }
    Ok(state)
}

/// Was it off? The switches are those of the calling thread's network namespace.
fn turn_on(switch: &str) -> Result<bool, String> {
    let path = format!("/proc/sys/net/bridge/{switch}");
    let advice = "traffic between pods of one bridge is not seen";
    match std::fs::read_to_string(&path) {
        Ok(value) if value.trim() == "1" => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!(
                "{advice}: br_netfilter is not in this kernel; run `modprobe br_netfilter` on the node"
            ));
        }
        Err(error) => return Err(format!("{advice}: {path}: {error}; set it to 1 on the node")),
    }
    std::fs::write(&path, "1")
        .map(|()| true)
        .map_err(|error| format!("{advice}: {path}: {error}; run `sysctl -w net.bridge.{switch}=1` on the node"))
}

fn bridges(channel: &mut Channel) -> Result<HashSet<u32>, Error> {
    let mut bridges = HashSet::new();
    let get = RouteNetlinkMessage::GetLink(LinkMessage::default());
    channel.request("list links", get, NLM_F_DUMP, &mut |message| match message {
        None => bridges.clear(),
        Some(message) => {
            if let Some(RouteNetlinkMessage::NewLink(link)) = decode(&message)
                && link.attributes.iter().any(is_bridge)
            {
                bridges.insert(link.header.index);
            }
        }
    })?;
    Ok(bridges)
}

fn is_bridge(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::LinkInfo(infos) = attribute else { return false };
    infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)))
}

/// The link by which the node reaches `address`; `None` without a route.
fn link_to(channel: &mut Channel, address: IpAddr) -> Result<Option<u32>, Error> {
    let mut get = RouteMessage::default();
    get.header.address_family = match address {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    };
    get.header.destination_prefix_length = IpNet::from(address).prefix_len();
    get.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    let mut link = None;
    let result = channel.request("look up a route", RouteNetlinkMessage::GetRoute(get), 0, &mut |message| {
        let Some(RouteNetlinkMessage::NewRoute(route)) = message.and_then(|m| decode(&m)) else { return };
        link =
            route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None });
    });
    match result {
        Ok(()) => Ok(link),
        Err(error) if error.refused_with().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
