//! [`Endpoints`]: address → [`Endpoint`], persistent: a change of one address copies one small bucket.

use std::fmt;
use std::sync::Arc;

use crate::Addr;

/// What an address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointKind {
    /// A pod that is a subject of this snapshot.
    LocalPod,
    /// A pod whose own node judges it.
    RemotePod,
    /// A node.
    Node,
}

/// An address that the cluster knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The group of its pod (see [`crate::Group`]); 0 for a node.
    pub group: u32,
    /// The class of blocks it is in (see [`crate::Block`]).
    pub block: u32,
    /// The number of the pod's node, or of the node itself; 0: none. Less than 2^29.
    pub node: u32,
    /// What it stands for.
    pub kind: EndpointKind,
    /// Something about it is in the [`crate::Tables`]' list of exceptions: it belongs to several nodes, or its pod
    /// has more addresses of the same family.
    pub exceptional: bool,
}

/// The endpoint table. Two levels of 64 shared nodes, then small open-addressing buckets.
#[derive(Clone)]
pub(crate) struct Endpoints {
    v4: Trie<u32>,
    v6: Trie<[u64; 2]>,
}

impl Endpoints {
    pub(crate) fn new() -> Self {
        Self { v4: Trie::new(), v6: Trie::new() }
    }

    /// What is known of the address.
    #[inline]
    pub(crate) fn get(&self, address: Addr) -> Option<Endpoint> {
        match address.as_v4() {
            Some(v4) => self.v4.get(v4),
            None => self.v6.get(halves(address)),
        }
        .map(unpack)
    }

    /// Sets or removes one address.
    pub(crate) fn set(&mut self, address: Addr, endpoint: Option<Endpoint>) {
        let value = endpoint.map(pack);
        match address.as_v4() {
            Some(v4) => self.v4.set(v4, value),
            None => self.v6.set(halves(address), value),
        }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoints")
    }
}

fn halves(address: Addr) -> [u64; 2] {
    [(address.bits() >> 64) as u64, address.bits() as u64]
}

const KIND_SHIFT: u32 = 30;
const EXCEPTIONAL: u32 = 1 << 29;
const NODE_MASK: u32 = EXCEPTIONAL - 1;

/// An endpoint as a table holds it.
#[derive(Clone, Copy)]
struct Packed {
    group: u32,
    block: u32,
    word: u32,
}

fn pack(endpoint: Endpoint) -> Packed {
    let kind = match endpoint.kind {
        EndpointKind::LocalPod => 0,
        EndpointKind::RemotePod => 1,
        EndpointKind::Node => 2,
    };
    let exceptional = if endpoint.exceptional { EXCEPTIONAL } else { 0 };
    let word = kind << KIND_SHIFT | exceptional | (endpoint.node & NODE_MASK);
    Packed { group: endpoint.group, block: endpoint.block, word }
}

#[inline]
fn unpack(Packed { group, block, word }: Packed) -> Endpoint {
    let kind = match word >> KIND_SHIFT {
        0 => EndpointKind::LocalPod,
        1 => EndpointKind::RemotePod,
        _ => EndpointKind::Node,
    };
    Endpoint { group, block, node: word & NODE_MASK, kind, exceptional: word & EXCEPTIONAL != 0 }
}

/// An address as a hash key.
trait Key: Copy + Eq + Default {
    fn hash(self) -> u64;
}

impl Key for u32 {
    #[inline]
    fn hash(self) -> u64 {
        u64::from(self).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Key for [u64; 2] {
    #[inline]
    fn hash(self) -> u64 {
        let folded = self[0].wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32) ^ self[1];
        (folded ^ folded >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Clone, Copy)]
struct Slot<K> {
    key: K,
    value: Packed,
}

impl<K> Slot<K> {
    fn is_vacant(&self) -> bool {
        self.value.group == VACANT
    }
}

/// No group has this number: the slot is free.
const VACANT: u32 = u32::MAX;
const FAN: usize = 64;

type Bucket<K> = Arc<[Slot<K>]>;
type Branch<K> = Arc<[Bucket<K>; FAN]>;

struct Trie<K> {
    root: Arc<[Branch<K>; FAN]>,
}

impl<K> Clone for Trie<K> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<K: Key> Trie<K> {
    fn new() -> Self {
        let bucket: Bucket<K> = vacant(1).into();
        let branch: Branch<K> = Arc::new(std::array::from_fn(|_| bucket.clone()));
        Self { root: Arc::new(std::array::from_fn(|_| branch.clone())) }
    }

    #[inline]
    fn get(&self, key: K) -> Option<Packed> {
        let hash = key.hash();
        let slot = find(self.root[root_index(hash)][branch_index(hash)].as_ref(), key, hash)?;
        (!slot.is_vacant()).then_some(slot.value)
    }

    fn set(&mut self, key: K, value: Option<Packed>) {
        let hash = key.hash();
        if value.is_none() && self.get(key).is_none() {
            return;
        }
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[root_index(hash)]);
        let bucket = &mut branch[branch_index(hash)];
        match value {
            Some(value) => insert(bucket, Slot { key, value }, hash),
            None => *bucket = rebuilt(bucket.iter().filter(|s| !s.is_vacant() && s.key != key)),
        }
    }
}

// The top twelve bits choose the bucket, the ones below the place in it.
#[inline]
fn root_index(hash: u64) -> usize {
    (hash >> 58) as usize % FAN
}

#[inline]
fn branch_index(hash: u64) -> usize {
    (hash >> 52) as usize % FAN
}

/// The key's slot, or the vacant one where it would go.
#[inline]
fn find<K: Key>(bucket: &[Slot<K>], key: K, hash: u64) -> Option<&Slot<K>> {
    let mask = bucket.len().wrapping_sub(1);
    let start = (hash >> 20) as usize;
    (0..bucket.len()).map_while(|i| bucket.get(start.wrapping_add(i) & mask)).find(|s| s.is_vacant() || s.key == key)
}

fn insert<K: Key>(bucket: &mut Bucket<K>, slot: Slot<K>, hash: u64) {
    let used = bucket.iter().filter(|s| !s.is_vacant()).count();
    let known = find(bucket, slot.key, hash).is_some_and(|s| !s.is_vacant());
    // At most 7/8 full: a search always meets a vacant slot, and the table takes half of the cache that 3/4 would
    // (buckets of some 24 addresses, as 100,000 make them, fit into 32 slots).
    if !known && (used + 1) * 8 > bucket.len() * 7 {
        *bucket = rebuilt(bucket.iter().filter(|s| !s.is_vacant()).chain([&slot]));
        return;
    }
    place(Arc::make_mut(bucket), slot, hash);
}

fn place<K: Key>(bucket: &mut [Slot<K>], slot: Slot<K>, hash: u64) {
    let mask = bucket.len().wrapping_sub(1);
    let start = (hash >> 20) as usize;
    for i in 0..bucket.len() {
        if let Some(s) = bucket.get_mut(start.wrapping_add(i) & mask)
            && (s.is_vacant() || s.key == slot.key)
        {
            *s = slot;
            return;
        }
    }
}

fn vacant<K: Key>(len: usize) -> Vec<Slot<K>> {
    vec![Slot { key: K::default(), value: Packed { group: VACANT, block: 0, word: 0 } }; len]
}

fn rebuilt<'s, K: Key + 's>(slots: impl Iterator<Item = &'s Slot<K>> + Clone) -> Bucket<K> {
    let used = slots.clone().count();
    let len = if used == 0 { 1 } else { (used * 8 / 7 + 1).next_power_of_two() };
    let mut bucket = vacant(len);
    slots.for_each(|s| place(&mut bucket, *s, s.key.hash()));
    bucket.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn endpoint(n: u32) -> Endpoint {
        let kind = [EndpointKind::LocalPod, EndpointKind::RemotePod, EndpointKind::Node][n as usize % 3];
        Endpoint { group: n, block: n / 3, node: n % 1000, kind, exceptional: n.is_multiple_of(7) }
    }

    /// A small generator, so that failures repeat.
    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut x = seed;
        move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        }
    }

    #[test]
    fn agrees_with_a_hash_map_over_random_changes_of_both_families() {
        let mut next = numbers(42);
        let (mut table, mut naive) = (Endpoints::new(), HashMap::new());
        let address = |r: u64| match r % 3 {
            0 => Addr::from_v6((u128::from(r % 5000) << 64 | 0xfd00 << 112 | 1).to_be_bytes()),
            _ => Addr::from_v4((0x0a00_0000 | (r % 20_000) as u32).to_be_bytes()),
        };
        let mut kept = Vec::new();
        for step in 0..60_000u32 {
            let at = address(next());
            match next() % 3 {
                0 => {
                    table.set(at, None);
                    naive.remove(&at);
                }
                _ => {
                    table.set(at, Some(endpoint(step)));
                    naive.insert(at, endpoint(step));
                }
            }
            if step % 20_000 == 0 {
                kept.push((table.clone(), naive.clone()));
            }
        }
        kept.push((table, naive));
        for (table, naive) in kept {
            for r in 0..20_000 {
                let at = address(r);
                assert_eq!(table.get(at), naive.get(&at).copied(), "{at}");
            }
        }
    }

    #[test]
    fn one_change_copies_one_bucket() {
        let mut table = Endpoints::new();
        let address = |n: u32| Addr::from_v4((0x0a00_0000 | n).to_be_bytes());
        (0..50_000).for_each(|n| table.set(address(n), Some(endpoint(n))));
        let before = table.clone();
        table.set(address(77), None);
        let copied = before.v4.root.iter().zip(table.v4.root.iter()).flat_map(|(a, b)| a.iter().zip(b.iter()));
        assert_eq!(copied.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        let longest = table.v4.root.iter().flat_map(|b| b.iter()).map(|b| b.len()).max();
        assert!(longest <= Some(128), "buckets stay small: {longest:?}");
    }
}
