//! [`Rtnl`]: the few rtnetlink requests that a sandbox needs: links, addresses, routes. One socket per namespace.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An rtnetlink socket of one namespace.
pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    up: bool,
}

/// A route to write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Route {
    pub(crate) via: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
}

impl Rtnl {
    /// A socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Rtnl { socket, sequence: 0 })
    }

    /// A veth pair, this end up; the other end, by name `peer`, in `other`, is for its owner to bring up (the kernel
    /// refuses that until the pair is whole).
    pub(crate) fn veth(&mut self, name: &str, peer: &str, other: BorrowedFd<'_>) -> io::Result<()> {
        let mut far = LinkMessage::default();
        far.attributes = vec![LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(other.as_raw_fd())];
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)))];
        self.add_link(name, info)
    }

    /// A bridge, up. Without multicast snooping: neighbour discovery must not depend on who listens to whom.
    pub(crate) fn bridge(&mut self, name: &str) -> io::Result<()> {
        let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        self.add_link(name, vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)])
    }

    fn add_link(&mut self, name: &str, info: Vec<LinkInfo>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(info)];
        set_up(&mut link);
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Puts a link on a bridge.
    pub(crate) fn enslave(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Controller(bridge)];
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Brings a link up.
    pub(crate) fn up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up(&mut link);
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Removes a link (of a veth pair: both ends), and with it its addresses and routes.
    pub(crate) fn remove_link(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.ask(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Looks a link up by name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut query = LinkMessage::default();
        query.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let answer = self.exchange(RouteNetlinkMessage::GetLink(query), 0)?;
        let Some(RouteNetlinkMessage::NewLink(link)) = answer else { return Err(io::ErrorKind::NotFound.into()) };
        let mut found = Link { index: link.header.index, mac: [0; 6], up: false };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Address(mac) => found.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::OperState(state) => found.up = state == State::Up,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Waits until a link carries packets: the kernel activates it a moment after its other end came up.
    pub(crate) fn await_link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let link = self.link(name)?;
            if link.up {
                return Ok(Some(link));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::yield_now();
        }
    }

    /// Gives a link an address, usable at once, without a route to its prefix unless `on_link`.
    pub(crate) fn add_address(&mut self, index: u32, address: IpNet, on_link: bool) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.scope = match address.addr() {
            IpAddr::V6(a) if a.is_unicast_link_local() => AddressScope::Link,
            _ => AddressScope::Universe,
        };
        let mut flags = AddressFlags::empty();
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            flags |= AddressFlags::Nodad;
        }
        if !on_link {
            flags |= AddressFlags::Noprefixroute;
        }
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
            AddressAttribute::Flags(flags),
        ];
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Writes a route in the main table; one that is there is replaced.
    pub(crate) fn set_route(&mut self, to: IpNet, index: u32, route: Route) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(route_message(to, index, route)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags).map(drop)
    }

    /// One request up to its acknowledgement; returns the last answer before it.
    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        self.sequence = self.sequence.wrapping_add(1);
        request.header.sequence_number = self.sequence;
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = None;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Answers are padded to four bytes (NLMSG_ALIGN).
                let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(e) if e.code.is_none() => return Ok(answer),
                    NetlinkPayload::Error(e) => return Err(e.to_io()),
                    NetlinkPayload::InnerMessage(inner) => answer = Some(inner),
                    _ => {}
                }
            }
        }
    }
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_message(to: IpNet, index: u32, route: Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope =
        if route.via.is_none() && to.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.network().into()));
    }
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    message
}

/// The link-local address that a host has on each of its pods' links.
pub(crate) const LINK_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
