//! Host routes that go away. A CNI frees a pod's address before the Pod object goes, so an address whose route or link is
//! gone is unknown again. What follows from it is the caller's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::links::{Links, Routes, Unicast};
use crate::netlink::{Channel, Received};
use crate::queue::Waker;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;

/// A host route, by what tells it from others to the same address.
pub(crate) type Key = (IpAddr, u32);

/// A watch on routes to single addresses (/32, /128), in any table but the kernel's own of local addresses.
pub struct RouteWatch {
    watch: Channel,
    ask: Channel,
    /// Routes that stand: (address, table) → outgoing link.
    known: HashMap<Key, Option<u32>>,
    /// Routes that went because their link was set down, and no route to the address came since → that link.
    down: HashMap<Key, u32>,
    /// Addresses whose routes came back, until they are asked for.
    back: Vec<IpAddr>,
    routes: Routes,
    /// [`links`](Self::links) have changed since they were asked for.
    relinked: bool,
    waker: Waker,
}

/// What one notice means.
pub(crate) enum Event {
    Came(Key, Option<u32>),
    Went(Key),
    /// The link is down. The kernel drops its IPv4 routes without a word (`fib_flush`).
    LinkDown(u32),
    /// The link is gone.
    LinkWent(u32),
}

impl RouteWatch {
    /// Watches from now on.
    pub fn new() -> Result<Self, Error> {
        let mut watch = Channel::open(NETLINK_ROUTE)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE] {
            watch.join(group)?;
        }
        let mut ask = Channel::open(NETLINK_ROUTE)?;
        let (known, routes) = list(&mut ask)?;
        let waker = Waker::new().map_err(|e| Error::io("make an eventfd", e))?;
        Ok(Self { watch, ask, known, down: HashMap::new(), back: Vec::new(), routes, relinked: true, waker })
    }

    /// Ends the wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until host routes go away; the addresses that they led to, each once. Empty if routes only came
    /// [back](Self::back), [links](Self::links) lead elsewhere or the waker was used, but not before all that went until then was
    /// told.
    pub fn gone(&mut self) -> Result<Vec<IpAddr>, Error> {
        let failed = |error| Error::io("watch routes", error);
        loop {
            let mut gone = self.drain()?;
            if !gone.is_empty() || !self.back.is_empty() || self.relinked || self.waker.take() {
                gone.sort_unstable();
                gone.dedup();
                return Ok(gone);
            }
            self.watch.wait(&self.waker).map_err(failed)?;
        }
    }

    /// Addresses of those that went whose route has come back since, over the same link, which was down and never gone:
    /// whoever had the address still has it. (Its next user has a link of its own.) Each is told once, and went before.
    pub fn back(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.back)
    }

    /// Where links lead, if that is news since it was asked last.
    pub fn links(&mut self) -> Option<Links> {
        std::mem::take(&mut self.relinked).then(|| self.routes.links())
    }

    /// Reads all notices that wait.
    fn drain(&mut self) -> Result<Vec<IpAddr>, Error> {
        let mut gone = Vec::new();
        loop {
            let mut events = Vec::new();
            let Self { watch, routes, relinked, .. } = self;
            let mut hear = |message: Received<'_>| {
                if let Some(message) = decode(&message) {
                    *relinked |= routes.hear(&message);
                    events.extend(meaning(message));
                }
            };
            match watch.read(&mut hear) {
                Ok(true) => gone.extend(self.follow(events)),
                Ok(false) => return Ok(gone),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => gone.extend(self.compare()?),
                Err(error) => return Err(Error::io("watch routes", error)),
            }
        }
    }

    fn follow(&mut self, events: Vec<Event>) -> Vec<IpAddr> {
        let mut gone = Vec::new();
        for event in events {
            match event {
                Event::Came(key, link) => {
                    self.known.insert(key, link);
                    if self.down.remove(&key).is_some_and(|before| link == Some(before)) {
                        self.back.push(key.0);
                    }
                }
                Event::Went(key) => {
                    self.known.remove(&key);
                    gone.push(key.0);
                }
                Event::LinkDown(index) => {
                    let lost: Vec<Key> = self.over(index);
                    self.down.extend(lost.iter().map(|key| (*key, index)));
                    gone.extend(self.lose(lost));
                }
                Event::LinkWent(index) => {
                    self.down.retain(|_, link| *link != index);
                    let lost = self.over(index);
                    gone.extend(self.lose(lost));
                }
            }
            self.back.retain(|address| !gone.contains(address) || self.known.keys().any(|key| key.0 == *address));
        }
        gone
    }

    /// The routes over a link.
    fn over(&self, index: u32) -> Vec<Key> {
        self.known.iter().filter(|(_, link)| **link == Some(index)).map(|(key, _)| *key).collect()
    }

    fn lose(&mut self, routes: Vec<Key>) -> impl Iterator<Item = IpAddr> {
        routes.into_iter().map(|key| {
            self.known.remove(&key);
            key.0
        })
    }

    /// Notices were lost: what stands now tells what went. A route whose link is gone went with it, so that one to the same
    /// address is another pod's; a route that only moved to another link is not.
    fn compare(&mut self) -> Result<Vec<IpAddr>, Error> {
        let (now, routes) = list(&mut self.ask)?;
        self.relinked |= self.routes != routes;
        self.routes = routes;
        // Whether a link went meanwhile is not known either.
        self.down.clear();
        self.back.clear();
        let links = links(&mut self.ask)?;
        let went =
            |key: &Key, link: &Option<u32>| !now.contains_key(key) || link.is_some_and(|link| !links.contains(&link));
        let gone = self.known.iter().filter(|(key, link)| went(key, link)).map(|(key, _)| key.0).collect();
        self.known = now;
        Ok(gone)
    }
}

fn list(ask: &mut Channel) -> Result<(HashMap<Key, Option<u32>>, Routes), Error> {
    let (mut known, mut routes) = (HashMap::new(), Routes::default());
    let get = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    ask.request("list routes", get, NLM_F_DUMP, &mut |message| match message {
        None => {
            known.clear();
            routes = Routes::default();
        }
        Some(message) => {
            let Some(message) = decode(&message) else { return };
            routes.hear(&message);
            if let Some(Event::Came(key, link)) = meaning(message) {
                known.insert(key, link);
            }
        }
    })?;
    Ok((known, routes))
}

fn links(ask: &mut Channel) -> Result<HashSet<u32>, Error> {
    let mut links = HashSet::new();
    let get = RouteNetlinkMessage::GetLink(LinkMessage::default());
    ask.request("list links", get, NLM_F_DUMP, &mut |message| match message.map(|message| decode(&message)) {
        None => links.clear(),
        Some(Some(RouteNetlinkMessage::NewLink(link))) => drop(links.insert(link.header.index)),
        Some(_) => {}
    })?;
    Ok(links)
}

/// Decodes a message of rtnetlink; `None` for what this crate's decoder does not know.
pub(crate) fn decode(message: &Received<'_>) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = message.kind;
    header.length = message.payload.len() as u32 + 16;
    RouteNetlinkMessage::deserialize(&header, message.payload).ok()
}

pub(crate) fn meaning(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => host_route(&route).map(|(key, link)| Event::Came(key, link)),
        RouteNetlinkMessage::DelRoute(route) => host_route(&route).map(|(key, _)| Event::Went(key)),
        RouteNetlinkMessage::DelLink(link) => Some(Event::LinkWent(link.header.index)),
        RouteNetlinkMessage::NewLink(link) if is_down(&link) => Some(Event::LinkDown(link.header.index)),
        _ => None,
    }
}

fn is_down(link: &LinkMessage) -> bool {
    !link.header.flags.contains(LinkFlags::Up)
}

fn host_route(route: &RouteMessage) -> Option<(Key, Option<u32>)> {
    let route = Unicast::of(route).filter(|route| route.to.prefix_len() == route.to.max_prefix_len())?;
    Some(((route.to.addr(), route.table), route.link))
}
