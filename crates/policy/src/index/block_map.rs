//! [`BlockMap`]: which blocks each address is in, as disjoint ranges, each with its profile. A block that comes or
//! goes touches the ranges inside of it only. Node selectors are numbered here too, since they are said of addresses
//! like blocks, but they paint no range: see `node_peers.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_api::IpBlock;
use podgate_engine::Addr;
use rustc_hash::FxHashSet;

use super::classifier::{Classifier, ProfileId, TermId};
use super::interner::{Interner, entry};
use super::labels::Requirements;

/// An interval of one family, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) v4: bool,
    first: u128,
    last: u128,
}

impl Span {
    fn of(network: IpNet) -> Self {
        match (network.network(), network.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Self { v4: true, first: u32::from(first).into(), last: u32::from(last).into() }
            }
            (first, last) => Self { v4: false, first: Addr::from(first).bits(), last: Addr::from(last).bits() },
        }
    }

    /// Its first and last address.
    pub(crate) fn addresses(self) -> (Addr, Addr) {
        let address = |bits: u128| match self.v4 {
            true => Addr::from_v4((bits as u32).to_be_bytes()),
            false => Addr::from_v6(bits.to_be_bytes()),
        };
        (address(self.first), address(self.last))
    }
}

/// What rules say of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Area {
    Block(IpBlock),
    /// The addresses of nodes with these labels.
    Nodes(Requirements),
}

/// Starts of ranges with their profiles, from 0 to the end of the family.
type Ranges = BTreeMap<u128, ProfileId>;

/// The blocks of rules, and the ranges they make.
#[derive(Debug)]
pub(crate) struct BlockMap {
    areas: Interner<Area>,
    /// By block: the spans it has in the ranges.
    painted: Vec<Option<Box<[Span]>>>,
    /// Blocks that came or went since the last painting.
    pending: FxHashSet<TermId>,
    v4: Ranges,
    v6: Ranges,
}

impl Default for BlockMap {
    fn default() -> Self {
        let everything = || Ranges::from([(0, 0)]);
        let (v4, v6) = (everything(), everything());
        Self { areas: Interner::default(), painted: Vec::new(), pending: FxHashSet::default(), v4, v6 }
    }
}

impl BlockMap {
    /// The block's number, with one user more.
    pub(crate) fn acquire(&mut self, block: &IpBlock) -> TermId {
        let (term, new) = self.areas.acquire(Area::Block(block.clone()));
        if new {
            self.pending.insert(term);
        }
        term
    }

    /// The number of a node selector, with one user more, and whether it is new.
    pub(crate) fn acquire_nodes(&mut self, labels: Requirements) -> (TermId, bool) {
        self.areas.acquire(Area::Nodes(labels))
    }

    /// One user less; the node selector, if it was one and that was its last user.
    pub(crate) fn release(&mut self, term: TermId) -> Option<Requirements> {
        match &*self.areas.release(term)? {
            Area::Nodes(labels) => Some(labels.clone()),
            Area::Block(_) => {
                self.pending.insert(term);
                None
            }
        }
    }

    fn block(&self, term: TermId) -> Option<&IpBlock> {
        match &**self.areas.try_value(term)? {
            Area::Block(block) => Some(block),
            Area::Nodes(_) => None,
        }
    }

    /// The profile of an address.
    pub(crate) fn profile(&self, address: Addr) -> ProfileId {
        let (ranges, key) = match address.as_v4() {
            Some(v4) => (&self.v4, u128::from(v4)),
            None => (&self.v6, address.bits()),
        };
        ranges.range(..=key).next_back().map_or(0, |r| *r.1)
    }

    /// Brings the ranges up to date and tells where they changed.
    pub(crate) fn paint(&mut self, classifier: &mut Classifier) -> Vec<Span> {
        let mut pending: Vec<TermId> = self.pending.drain().collect();
        // Large blocks first: they are painted over few ranges then.
        pending.sort_by_key(|t| (self.block(*t).map_or(0, |b| b.cidr.prefix_len()), *t));
        let mut changed = Vec::new();
        for term in &pending {
            // The number may have another block than the one that was painted.
            if let Some(spans) = entry(&mut self.painted, *term).take() {
                spans.iter().for_each(|s| self.edit(*s, classifier, |terms| terms.retain(|t| t != term)));
                changed.extend(spans);
            }
        }
        for term in &pending {
            let Some(spans) = self.block(*term).map(spans) else { continue };
            let add = |terms: &mut Vec<TermId>| {
                if let Err(at) = terms.binary_search(term) {
                    terms.insert(at, *term);
                }
            };
            spans.iter().for_each(|s| self.edit(*s, classifier, add));
            changed.extend(&spans);
            self.painted[*term as usize] = Some(spans.into());
        }
        changed
    }

    /// Changes the terms of every range in the span.
    fn edit(&mut self, span: Span, classifier: &mut Classifier, edit: impl Fn(&mut Vec<TermId>)) {
        let ranges = if span.v4 { &mut self.v4 } else { &mut self.v6 };
        let end = if span.v4 { u32::MAX.into() } else { u128::MAX };
        split(ranges, span.first, classifier);
        if span.last < end {
            split(ranges, span.last + 1, classifier);
        }
        for profile in ranges.range_mut(span.first..=span.last).map(|r| r.1) {
            let mut terms = classifier.terms(*profile).to_vec();
            edit(&mut terms);
            let next = classifier.acquire(terms);
            classifier.release(std::mem::replace(profile, next));
        }
        let joints: Vec<u128> = ranges.range(span.first..=span.last.saturating_add(1)).map(|r| *r.0).collect();
        for at in joints {
            let before = ranges.range(..at).next_back().map(|r| *r.1);
            if before.is_some() && before == ranges.get(&at).copied() {
                ranges.remove(&at).into_iter().for_each(|p| classifier.release(p));
            }
        }
    }

    /// The IPv4 ranges as the engine takes them.
    pub(crate) fn v4(&self) -> Vec<(u32, ProfileId)> {
        self.v4.iter().filter_map(|r| Some((u32::try_from(*r.0).ok()?, *r.1))).collect()
    }

    /// The IPv6 ranges as the engine takes them.
    pub(crate) fn v6(&self) -> Vec<(u128, ProfileId)> {
        self.v6.iter().map(|r| (*r.0, *r.1)).collect()
    }

    /// How many blocks and node selectors there are.
    pub(crate) fn len(&self) -> usize {
        self.areas.len()
    }
}

fn split(ranges: &mut Ranges, at: u128, classifier: &mut Classifier) {
    if let Some((start, profile)) = ranges.range(..=at).next_back().map(|r| (*r.0, *r.1))
        && start != at
    {
        classifier.retain(profile);
        ranges.insert(at, profile);
    }
}

/// The block without its exceptions.
fn spans(block: &IpBlock) -> Vec<Span> {
    let whole = Span::of(block.cidr);
    let mut except: Vec<Span> = block.except.iter().map(|e| Span::of(*e)).filter(|e| e.v4 == whole.v4).collect();
    except.sort_by_key(|e| e.first);
    let (mut spans, mut next) = (Vec::new(), Some(whole.first));
    for hole in except {
        if let Some(first) = next.filter(|first| *first < hole.first) {
            spans.push(Span { first, last: hole.first - 1, ..whole });
        }
        next = next.and_then(|next| Some(next.max(hole.last.checked_add(1)?)));
    }
    spans.extend(next.filter(|first| *first <= whole.last).map(|first| Span { first, ..whole }));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock { cidr: cidr.parse().unwrap(), except: except.iter().map(|e| e.parse().unwrap()).collect() }
    }

    fn matches(block: &IpBlock, address: IpAddr) -> bool {
        block.cidr.contains(&address) && !block.except.iter().any(|e| e.contains(&address))
    }

    fn pool() -> Vec<IpBlock> {
        vec![
            block("0.0.0.0/0", &[]),
            block("0.0.0.0/0", &["10.0.0.0/8"]),
            block("10.0.0.0/24", &["10.0.0.0/26", "10.0.0.128/25"]),
            block("10.0.0.0/24", &["10.0.0.64/26", "10.0.0.64/27"]),
            block("10.0.0.64/26", &[]),
            block("10.0.0.77/32", &[]),
            block("255.255.255.0/24", &["255.255.255.255/32"]),
            block("::/0", &["fd00::/8"]),
            block("fd00::/64", &["fd00::/66"]),
            block("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124", &[]),
        ]
    }

    proptest! {
        #[test]
        fn the_ranges_say_of_each_address_which_blocks_it_is_in(steps in proptest::collection::vec((0usize..10, any::<bool>()), 1..60)) {
            let (mut map, mut classifier, pool) = (BlockMap::default(), Classifier::new(1), pool());
            let mut held: Vec<Option<TermId>> = vec![None; pool.len()];
            let addresses: Vec<IpAddr> = [
                "0.0.0.0", "9.255.255.255", "10.0.0.0", "10.0.0.63", "10.0.0.64", "10.0.0.77", "10.0.0.78", "10.0.0.95", "10.0.0.96",
                "10.0.0.127", "10.0.0.128", "10.0.0.255", "10.0.1.0", "255.255.255.254", "255.255.255.255", "::", "fd00::",
                "fd00::3fff:ffff:ffff:ffff", "fd00::4000:0:0:0", "fd00:0:0:1::", "fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ].iter().map(|a| a.parse().unwrap()).collect();
            for (i, paint) in steps {
                held[i] = match held[i] {
                    None => Some(map.acquire(&pool[i])),
                    Some(term) => { map.release(term); None }
                };
                if !paint { continue }
                map.paint(&mut classifier);
                for address in &addresses {
                    let mut expected: Vec<TermId> =
                        held.iter().zip(&pool).filter(|(_, b)| matches(b, *address)).filter_map(|(t, _)| *t).collect();
                    expected.sort_unstable();
                    let profile = map.profile((*address).into());
                    prop_assert_eq!(&**classifier.terms(profile), expected.as_slice(), "{}", address);
                }
            }
            held.into_iter().flatten().for_each(|t| drop(map.release(t)));
            map.paint(&mut classifier);
            prop_assert_eq!((classifier.len(), map.len()), ((0, 0), 0));
            prop_assert_eq!((map.v4(), map.v6()), (vec![(0, 0)], vec![(0, 0)]));
        }
    }
}
