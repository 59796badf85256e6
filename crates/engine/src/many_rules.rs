//! [`ManyRules`]: any number of rules, by rank. Each class of a peer has a table of ports that gives the first rule
//! that matches by it; the lowest rank of all is the first rule that matches. So no table has to hold combinations of
//! classes. Not here: tiers, and the quicker way for few rules.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::class_map::ClassMap;
use crate::ports::{NO_RANK, PortTable, Segment, is_not_shown, lookup, name_key};
use crate::rule_table::RankedRule;
use crate::{Action, PortNames, PortSpan, RuleId};

/// Rules in their order, by peer and port.
#[derive(Debug, Clone)]
pub(crate) struct ManyRules {
    /// Class → value.
    map: ClassMap,
    /// The value of rules about every peer.
    everybody: u32,
    segments: Vec<Segment>,
    /// Where in `segments` a port table begins, by its hash.
    places: HashMap<u64, u32>,
    /// By rank.
    rules: Box<[(Action, RuleId)]>,
}

/// A value with this bit is where in `segments` a port table begins, one without it a rank.
const TABLE: u32 = 1 << 31;

impl ManyRules {
    pub(crate) fn new(rules: &[RankedRule<'_>]) -> Self {
        let actions = rules.iter().map(|r| (r.action, r.id)).collect();
        let mut table = Self {
            map: ClassMap::new(),
            everybody: NO_RANK,
            segments: Vec::new(),
            places: HashMap::new(),
            rules: actions,
        };
        let ranked = (0..).zip(rules).filter(|(_, r)| r.everybody).map(|(rank, r)| (rank, r.ports));
        table.everybody = table.keep(ranked);
        table
    }

    pub(crate) fn classes(&self) -> &ClassMap {
        &self.map
    }

    /// The value of [`ManyRules::keep`] is about the class.
    pub(crate) fn set(&mut self, class: u32, value: u32) {
        self.map.set(class, value);
    }

    /// The value of these rules: a one-segment table is its rank; others are kept once, each behind a head that tells
    /// its length.
    pub(crate) fn keep<'p>(&mut self, rules: impl IntoIterator<Item = (u32, &'p [PortSpan])>) -> u32 {
        let ports = PortTable::first_of(rules);
        let wanted = ports.segments();
        if let [only] = wanted {
            return only.rank;
        }
        let hash = hash(wanted);
        if let Some(&at) = self.places.get(&hash) {
            let place = at as usize;
            let len = self.segments.get(place).map_or(0, |head| head.start as usize);
            if self.segments.get(place + 1..place + 1 + len) == Some(wanted) {
                return TABLE | at;
            }
        }
        // One whose hash another has too is not found again, and costs its own room each time.
        let at = self.segments.len();
        self.places.entry(hash).or_insert(at as u32);
        self.segments.push(Segment { start: wanted.len() as u32, rank: NO_RANK });
        self.segments.extend_from_slice(wanted);
        TABLE | at as u32
    }

    /// The first rule that matches.
    #[inline(never)]
    pub(crate) fn first(&self, classes: [u32; 4], key: u32, names: Option<&PortNames>) -> Option<(Action, RuleId)> {
        let mut rank = self.rank(self.everybody, key, names);
        for class in classes {
            if class != 0
                && let Some(value) = self.map.get(class)
            {
                rank = rank.min(self.rank(value, key, names));
            }
        }
        self.rules.get(rank as usize).copied()
    }

    #[inline]
    fn rank(&self, value: u32, key: u32, names: Option<&PortNames>) -> u32 {
        if value & TABLE == 0 {
            return value;
        }
        let at = (value & !TABLE) as usize;
        let len = self.segments.get(at).map_or(0, |head| head.start as usize);
        let segments = self.segments.get(at + 1..at + 1 + len).unwrap_or_default();
        let mut rank = lookup(segments, key);
        for name in names.into_iter().flat_map(|names| names.of(key)) {
            rank = rank.min(lookup(segments, name_key(*name, is_not_shown(key))));
        }
        rank
    }
}

fn hash(segments: &[Segment]) -> u64 {
    let mut hasher = DefaultHasher::new();
    segments.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::TCP;

    #[test]
    fn equal_port_tables_are_kept_once() {
        let mut table = ManyRules::new(&[]);
        let web = [PortSpan::ports(TCP, 80, 80)];
        let dns = [PortSpan::ports(TCP, 53, 53)];
        for class in 1..100 {
            let kept = table.keep([(class % 2, if class % 2 == 0 { &web } else { &dns }.as_slice())]);
            table.set(class, kept);
        }
        let lengths = [&web, &dns].map(|s| PortTable::first_of([(0, s.as_slice())]).segments().len());
        assert_eq!(table.segments.len(), 2 + lengths[0] + lengths[1]);
    }
}
