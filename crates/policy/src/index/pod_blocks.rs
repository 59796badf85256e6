//! [`PodBlocks`]: where pods' addresses lie, in blocks of /24 and /64: few even where pods are many, so that the kernel
//! can tell an address that may be a pod's from one that is not.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podgate_engine::Addr;

/// How many addresses of pods each block has.
#[derive(Debug, Default)]
pub(crate) struct PodBlocks {
    counts: BTreeMap<IpNet, u32>,
    /// Other blocks than in the last build.
    changed: bool,
}

impl PodBlocks {
    /// A pod has the address now.
    pub(crate) fn add(&mut self, address: Addr) {
        let count = self.counts.entry(block(address)).or_default();
        self.changed |= *count == 0;
        *count += 1;
    }

    /// No pod has the address any more.
    pub(crate) fn remove(&mut self, address: Addr) {
        let block = block(address);
        let Some(count) = self.counts.get_mut(&block) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&block);
            self.changed = true;
        }
    }

    /// Whether they are others than the last time.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The blocks that have any, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.counts.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }
}

fn block(address: Addr) -> IpNet {
    let net = match address.ip() {
        std::net::IpAddr::V4(v4) => Ipv4Net::new(v4, 24).map(|net| IpNet::V4(net.trunc())),
        std::net::IpAddr::V6(v6) => Ipv6Net::new(v6, 64).map(|net| IpNet::V6(net.trunc())),
    };
    net.unwrap_or_else(|_| address.ip().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn a_block_is_there_as_long_as_a_pod_is_in_it() {
        let mut blocks = PodBlocks::default();
        assert!(!blocks.take_changed());
        for address in ["10.1.2.3", "10.1.2.200", "fd00::1"] {
            blocks.add(addr(address));
        }
        let both = ["10.1.2.0/24", "fd00::/64"].map(|net| net.parse().unwrap());
        assert!(blocks.take_changed() && blocks.iter().eq(both));
        blocks.remove(addr("10.1.2.3"));
        blocks.add(addr("fd00::2"));
        assert!(!blocks.take_changed());
        for _ in 0..2 {
            blocks.remove(addr("10.1.2.200"));
        }
        assert!(blocks.take_changed() && blocks.iter().eq(both[1..].iter().copied()));
    }
}
