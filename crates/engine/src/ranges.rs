//! Address ranges: [`Ranges`] (disjoint ranges, each with its class of
//! blocks, for addresses that no pod or node has) and
//! [`AddressSet`] (is the address in these networks?).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::Addr;

/// Starts of disjoint ranges that cover a whole address family, ascending, each with its class of blocks.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    v4: Arc<[(u32, u32)]>,
    /// How many v4 ranges start below `i << shift`, some two places a range; empty for few ranges, which are searched
    /// whole.
    v4_top: Arc<[u32]>,
    shift: u32,
    v6: Arc<[(u128, u32)]>,
}

/// Fewer ranges than this are searched without the index.
const INDEXED: usize = 64;

impl Ranges {
    pub(crate) fn new() -> Self {
        Self { v4: Arc::new([]), v4_top: Arc::new([]), shift: 16, v6: Arc::new([]) }
    }

    /// Both lists ascending by start.
    pub(crate) fn set(&mut self, v4: Vec<(u32, u32)>, v6: Vec<(u128, u32)>) {
        // No larger than it pays: a table of all upper halves would push others out of the cache.
        self.shift = 32 - (v4.len() * 2).next_power_of_two().ilog2().clamp(1, 16);
        self.v4_top = match v4.len() {
            0..INDEXED => Arc::new([]),
            _ => {
                let (mut below, shift) = (0, self.shift);
                let advance = |i: u64| {
                    below +=
                        v4.get(below..).unwrap_or_default().iter().take_while(|r| u64::from(r.0) < i << shift).count();
                    below as u32
                };
                (0..=1u64 << (32 - shift)).map(advance).collect()
            }
        };
        (self.v4, self.v6) = (v4.into(), v6.into());
    }

    /// The class of the range that the address is in; 0 (outside of every block) below the first start.
    #[inline]
    pub(crate) fn block(&self, address: Addr) -> u32 {
        match address.as_v4() {
            Some(v4) => {
                let top = (v4 >> self.shift) as usize;
                let (low, high) = match (self.v4_top.get(top), self.v4_top.get(top + 1)) {
                    (Some(low), Some(high)) => (*low as usize, *high as usize),
                    _ => (0, self.v4.len()),
                };
                let within = self.v4.get(low..high).unwrap_or_default();
                let above = low + within.partition_point(|r| r.0 <= v4);
                above.checked_sub(1).and_then(|i| self.v4.get(i)).map_or(0, |r| r.1)
            }
            None => {
                let above = self.v6.partition_point(|r| r.0 <= address.bits());
                above.checked_sub(1).and_then(|i| self.v6.get(i)).map_or(0, |r| r.1)
            }
        }
    }
}

/// Networks as sorted disjoint intervals.
#[derive(Debug, Clone)]
pub(crate) struct AddressSet {
    v4: Arc<[(u32, u32)]>,
    v6: Arc<[(u128, u128)]>,
}

impl AddressSet {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in IpNet::aggregate(&networks.to_vec()) {
            match (network.network(), network.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((u32::from(first), u32::from(last))),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((u128::from(first), u128::from(last))),
                _ => {}
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4: v4.into(), v6: v6.into() }
    }

    #[inline]
    pub(crate) fn contains(&self, address: Addr) -> bool {
        match address.as_v4() {
            Some(v4) => within(&self.v4, v4),
            None => within(&self.v6, address.bits()),
        }
    }
}

#[inline]
fn within<T: Ord + Copy>(intervals: &[(T, T)], value: T) -> bool {
    let above = intervals.partition_point(|i| i.0 <= value);
    above.checked_sub(1).and_then(|i| intervals.get(i)).is_some_and(|i| value <= i.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_a_linear_search() {
        for count in [0u32, 1, 10, 63, 64, 5000] {
            let v4: Vec<(u32, u32)> = (0..count).map(|i| (i.wrapping_mul(i) * 97 + i, i + 1)).collect();
            let mut v4 = v4;
            v4.sort_unstable();
            v4.dedup_by_key(|r| r.0);
            let v6: Vec<(u128, u32)> = v4.iter().map(|r| (u128::from(r.0) << 90, r.1)).collect();
            let mut ranges = Ranges::new();
            ranges.set(v4.clone(), v6.clone());
            let probes = (0..20_000u32).map(|i| i.wrapping_mul(0x9e37_79b9)).chain(v4.iter().map(|r| r.0));
            for probe in probes.chain(v4.iter().map(|r| r.0.wrapping_sub(1))).chain([0, u32::MAX]) {
                let naive = v4.iter().rev().find(|r| r.0 <= probe).map_or(0, |r| r.1);
                assert_eq!(ranges.block(Addr::from_v4(probe.to_be_bytes())), naive);
                let probe = u128::from(probe) << 90 | 5;
                let naive = v6.iter().rev().find(|r| r.0 <= probe).map_or(0, |r| r.1);
                assert_eq!(ranges.block(Addr::from_v6(probe.to_be_bytes())), naive);
            }
        }
    }

    #[test]
    fn an_address_set_knows_its_networks_and_keeps_families_apart() {
        let networks: Vec<IpNet> =
            ["10.1.0.0/24", "10.1.1.0/24", "10.9.0.0/16", "::/0"].map(|n| n.parse().unwrap()).into();
        let set = AddressSet::new(&networks);
        for (address, inside) in [("10.1.0.0", true), ("10.1.1.255", true), ("10.1.2.0", false), ("10.9.3.4", true)] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(set.contains(address.into()), inside, "{address}");
        }
        assert!(set.contains("fd00::1".parse::<IpAddr>().unwrap().into()));
        assert!(!AddressSet::new(&[]).contains("fd00::1".parse::<IpAddr>().unwrap().into()));
    }
}
