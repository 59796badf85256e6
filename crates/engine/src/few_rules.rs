//! [`FewRules`]: up to 32 rules as bits of masks: those that match the peer's classes and those that match the port;
//! the lowest bit of both is the first rule that matches (bit vectors: Lakshman and Stiliadis, SIGCOMM 1998). A
//! look-up reads the same lines whatever it finds, and hardly branches: a wrong guess of the processor costs more
//! than all it computes. Not here: tiers, and tables of more rules.

use crate::class_masks::ClassMasks;
use crate::ports::{is_not_shown, name_key};
use crate::rule_table::RankedRule;
use crate::{Action, PortNames, RuleId};

/// Rules that a mask has room for.
const RULES: usize = 32;
/// Keys in a line.
const LANES: usize = 16;

/// Sixteen words on a cache line of their own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([u32; LANES]);

/// At most 32 rules, and 256 intervals of ports.
#[derive(Debug, Clone)]
pub(crate) struct FewRules {
    classes: ClassMasks,
    /// Rules about everybody.
    everybody: u32,
    deny: u32,
    pass: u32,
    leaves: usize,
    /// One line with the first key of each leaf; the leaves (starts of intervals of keys, ascending); as many lines with
    /// the masks of these; the rules' numbers.
    lines: Box<[Line]>,
}

impl FewRules {
    /// `None`: there are too many rules or ports.
    pub(crate) fn new(rules: &[RankedRule<'_>], classes: usize) -> Option<Self> {
        if rules.len() > RULES {
            return None;
        }
        let bits = |matches: &dyn Fn(&RankedRule<'_>) -> bool| {
            rules.iter().enumerate().filter(|(_, r)| matches(r)).fold(0, |mask, (rank, _)| mask | 1 << rank)
        };
        let spans = rules.iter().flat_map(|r| r.ports);
        let mut starts: Vec<u32> = spans.flat_map(|s| [Some(s.first), s.last.checked_add(1)]).flatten().collect();
        starts.push(0);
        starts.sort_unstable();
        starts.dedup();
        let mut intervals: Vec<(u32, u32)> = Vec::with_capacity(starts.len());
        for start in starts {
            let mask = bits(&|r| r.ports.iter().any(|s| (s.first..=s.last).contains(&start)));
            if intervals.last().is_none_or(|i| i.1 != mask) {
                intervals.push((start, mask));
            }
        }
        let leaves: Vec<&[(u32, u32)]> = intervals.chunks(LANES).collect();
        if leaves.len() > LANES {
            return None;
        }
        let firsts: Vec<u32> = leaves.iter().filter_map(|l| l.first()).map(|i| ordered(i.0)).collect();
        let mut lines = vec![line(&firsts, NEVER)];
        lines.extend(leaves.iter().map(|l| line(&l.iter().map(|i| ordered(i.0)).collect::<Vec<_>>(), NEVER)));
        let last = |leaf: &[(u32, u32)]| leaf.last().map_or(0, |i| i.1);
        lines.extend(leaves.iter().map(|l| line(&l.iter().map(|i| i.1).collect::<Vec<_>>(), last(l))));
        lines.extend(rules.chunks(LANES).map(|c| line(&c.iter().map(|r| r.id.0).collect::<Vec<_>>(), 0)));
        Some(Self {
            classes: ClassMasks::new(classes),
            everybody: bits(&|r| r.everybody),
            deny: bits(&|r| r.action == Action::Deny),
            pass: bits(&|r| r.action == Action::Pass),
            leaves: leaves.len(),
            lines: lines.into(),
        })
    }

    pub(crate) fn classes(&self) -> &ClassMasks {
        &self.classes
    }

    /// The rules with these ranks.
    pub(crate) fn mask(ranks: impl Iterator<Item = u32>) -> u32 {
        ranks.fold(0, |mask, rank| mask | 1 << (rank as usize % RULES))
    }

    /// Sets the mask of the rules that match a class.
    pub(crate) fn set(&mut self, class: u32, mask: u32) {
        self.classes.set(class, mask);
    }

    /// The first rule that matches.
    #[inline]
    pub(crate) fn first(&self, classes: [u32; 4], key: u32, names: Option<&PortNames>) -> Option<(Action, RuleId)> {
        let [narrow, broad, narrow_block, broad_block] = classes;
        let mut peer = self.everybody | self.classes.get([narrow, broad, narrow_block]);
        // Few clusters have widely used blocks: a guess that is right.
        if broad_block != 0 {
            peer |= self.classes.get([broad_block]);
        }
        let mut port = self.at(key);
        if let Some(names) = names {
            for name in names.of(key) {
                port |= self.at(name_key(*name, is_not_shown(key)));
            }
        }
        let matching = peer & port;
        let rank = matching.trailing_zeros() as usize % RULES;
        let id = self.lines.get(1 + 2 * self.leaves + rank / LANES).map_or(0, |line| line.0[rank % LANES]);
        let first = matching & matching.wrapping_neg();
        let action = match (first & self.deny, first & self.pass) {
            (0, 0) => Action::Accept,
            (0, _) => Action::Pass,
            _ => Action::Deny,
        };
        (matching != 0).then_some((action, RuleId(id)))
    }

    /// The rules that are about the port.
    #[inline]
    fn at(&self, key: u32) -> u32 {
        let leaf = self.lines.first().map_or(0, |top| last_at_most(top, key)).min(self.leaves - 1);
        let lane = self.lines.get(1 + leaf).map_or(0, |leaf| last_at_most(leaf, key));
        self.lines.get(1 + self.leaves + leaf).map_or(0, |masks| masks.0[lane])
    }
}

/// These words (16 at most), then `fill`.
fn line(words: &[u32], fill: u32) -> Line {
    Line(std::array::from_fn(|lane| words.get(lane).copied().unwrap_or(fill)))
}

/// A key so that signed comparison, the only one of x86-64's vectors, orders it as it should.
#[inline]
fn ordered(key: u32) -> u32 {
    key ^ 1 << 31
}

/// Above every key, in that order.
const NEVER: u32 = i32::MAX as u32;

/// The place of the last word that is not above the key; the first one never is.
#[inline]
fn last_at_most(line: &Line, key: u32) -> usize {
    let key = ordered(key) as i32;
    let mut above = [0; 4];
    for (lane, start) in line.0.iter().enumerate() {
        above[lane % 4] += u32::from(*start as i32 > key);
    }
    (LANES - 1).wrapping_sub(above.iter().sum::<u32>() as usize) % LANES
}
