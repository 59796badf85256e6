//! [`DirectionTable`]: for one subject class and direction, peer class → port table.

use std::fmt;

use crate::ports::{Segment, decode, encode, lookup};
use crate::{Cause, Group, PortTable};

/// What one direction of a subject comes to, whoever the peer.
#[derive(Debug, Clone)]
pub struct DirectionTable {
    /// For every peer but the pod's own node.
    pub peers: PeerTable,
    /// For the pod's own node; `None`: it is allowed.
    pub own_node: Option<PeerTable>,
}

/// Peer class → port table. A peer is looked up by its exact class, then by its broad class, then it is everybody.
#[derive(Clone)]
pub struct PeerTable {
    exact: Map,
    broad: Map,
    everybody: u32,
    segments: Vec<Segment>,
}

/// A value with this bit is where in `segments` a port table begins, one without it a cause.
const TABLE: u32 = 1 << 31;

impl PeerTable {
    /// One port table for every peer.
    pub fn new(everybody: &PortTable) -> Self {
        let mut table = Self { exact: Map::new(), broad: Map::new(), everybody: 0, segments: Vec::new() };
        table.everybody = table.intern(everybody);
        table
    }

    /// The port table of peers of exactly this class.
    pub fn set_exact(&mut self, class: u32, ports: &PortTable) {
        let value = self.intern(ports);
        self.exact.set(class, value);
    }

    /// The port table of peers of this broad class that have no exact one.
    pub fn set_broad(&mut self, class: u32, ports: &PortTable) {
        let value = self.intern(ports);
        self.broad.set(class, value);
    }

    /// How many peer classes have an entry of their own.
    pub fn entries(&self) -> usize {
        self.exact.used + self.broad.used
    }

    /// A one-segment table is its cause; others are kept once, each behind a head that tells its length.
    fn intern(&mut self, ports: &PortTable) -> u32 {
        let wanted = ports.segments();
        if let [only] = wanted {
            return only.code;
        }
        let mut at = 0;
        while let Some(head) = self.segments.get(at) {
            let len = head.start as usize;
            if self.segments.get(at + 1..at + 1 + len) == Some(wanted) {
                return TABLE | at as u32;
            }
            at += 1 + len;
        }
        self.segments.push(Segment { start: wanted.len() as u32, code: encode(Cause::Unknown) });
        self.segments.extend_from_slice(wanted);
        TABLE | at as u32
    }

    /// The cause for a peer of this group, and this protocol and port.
    #[inline]
    pub(crate) fn cause(&self, peer: &Group, key: u32) -> Cause {
        let value = self.exact.get(peer.exact).or_else(|| self.broad.get(peer.broad)).unwrap_or(self.everybody);
        if value & TABLE == 0 {
            return decode(value);
        }
        let at = (value & !TABLE) as usize;
        let len = self.segments.get(at).map_or(0, |head| head.start as usize);
        decode(lookup(self.segments.get(at + 1..at + 1 + len).unwrap_or_default(), key))
    }

    /// The same, for the control plane.
    pub fn lookup(&self, peer: &Group, protocol: u8, port: crate::Port) -> Cause {
        self.cause(peer, crate::ports::port_key(protocol, port))
    }
}

impl fmt::Debug for PeerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerTable({} exact, {} broad, {} segments)", self.exact.used, self.broad.used, self.segments.len())
    }
}

/// Open addressing, u32 → u32, at most 2/3 full.
#[derive(Clone)]
struct Map {
    slots: Box<[(u32, u32)]>,
    used: usize,
}

/// No class has this number.
const VACANT: u32 = u32::MAX;

impl Map {
    fn new() -> Self {
        Self { slots: Box::new([]), used: 0 }
    }

    #[inline]
    fn start(key: u32) -> usize {
        (u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }

    #[inline]
    fn get(&self, key: u32) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let start = Self::start(key);
        for i in 0..self.slots.len() {
            match self.slots.get(start.wrapping_add(i) & mask) {
                Some((k, value)) if *k == key && key != VACANT => return Some(*value),
                Some((k, _)) if *k != VACANT => {}
                _ => return None,
            }
        }
        None
    }

    fn set(&mut self, key: u32, value: u32) {
        if (self.used + 1) * 3 > self.slots.len() * 2 {
            let larger = (self.slots.len() * 2).max(4);
            let old = std::mem::replace(&mut self.slots, vec![(VACANT, 0); larger].into());
            self.used = 0;
            old.iter().filter(|s| s.0 != VACANT).for_each(|s| self.place(s.0, s.1));
        }
        self.place(key, value);
    }

    fn place(&mut self, key: u32, value: u32) {
        let mask = self.slots.len().wrapping_sub(1);
        let start = Self::start(key);
        for i in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(start.wrapping_add(i) & mask)
                && (slot.0 == VACANT || slot.0 == key)
            {
                self.used += usize::from(slot.0 == VACANT);
                *slot = (key, value);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::TCP;
    use crate::{Port, PortSpan, RuleId};
    use std::collections::HashMap;

    fn ports(n: u16) -> PortTable {
        match n % 3 {
            0 => PortTable::constant(Cause::Denied(RuleId(n.into()))),
            _ => {
                let span = PortSpan::ports(TCP, n, n);
                PortTable::new(vec![(span, Cause::Accepted(RuleId(u32::from(n) % 5)))])
            }
        }
    }

    fn naive(n: u16, port: u16) -> Cause {
        match n % 3 {
            0 => Cause::Denied(RuleId(n.into())),
            _ if port == n => Cause::Accepted(RuleId(u32::from(n) % 5)),
            _ => Cause::Unknown,
        }
    }

    #[test]
    fn exact_goes_before_broad_goes_before_everybody() {
        let mut table = PeerTable::new(&ports(1000));
        let (mut exact, mut broad) = (HashMap::new(), HashMap::new());
        for i in 0..500u32 {
            let (key, n) = (i.wrapping_mul(7919) % 1200, (i % 90) as u16);
            table.set_exact(key, &ports(n));
            exact.insert(key, n);
            table.set_broad(key / 3, &ports(n + 7));
            broad.insert(key / 3, n + 7);
        }
        assert_eq!(table.entries(), exact.len() + broad.len());
        for key in 0..1300 {
            let peer = Group { exact: key, broad: key / 2, ..Group::default() };
            let n = exact.get(&key).or(broad.get(&(key / 2))).copied().unwrap_or(1000);
            for port in [n, n + 1] {
                assert_eq!(table.lookup(&peer, TCP, Port::Number(port)), naive(n, port));
            }
        }
    }

    #[test]
    fn equal_port_tables_are_kept_once() {
        let mut table = PeerTable::new(&ports(1));
        (0..100).for_each(|class| table.set_exact(class, &ports([1, 2][class as usize % 2])));
        assert_eq!(table.segments.len(), 2 + ports(1).segments().len() + ports(2).segments().len());
    }
}
