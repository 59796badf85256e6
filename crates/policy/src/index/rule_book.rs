//! [`RuleBook`]: rules by name and action, and their numbers. (A ClusterNetworkPolicy and an AdminNetworkPolicy of one
//! name can have rules of one name.)
//!
//! ```text
//!   acquire ──▶ in use ── last user gone ──▶ remembered ── too many ──▶ spent ── no snapshot has it ──▶ free ──┐
//!      ▲          ▲                              │                                                             │
//!      │          └─────── the same name ────────┘                                                             │
//!      └────────────────────────────────────── another name ───────────────────────────────────────────────────┘
//! ```
//!
//! A pair keeps its number while anything has it, and for a while after, so that a policy that is deleted and made again
//! goes on counting where it was. Another pair gets the number only when every snapshot has gone in which it was the
//! earlier one's: so nobody can count by it for that one, nor look it up, any more. Whoever keeps numbers for longer than
//! a snapshot is told by [`RuleInfo::since`] and [`Build::reused`](super::Build::reused). So there are never more numbers
//! than rules at once, with those that are remembered and those that snapshots still in use have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use podgate_engine::{Action, Generation, RuleId, RuleInfo, Snapshot, Tables};

/// Rules that are no more are remembered up to this many: more than any one policy should have, and with 16 workers some
/// 10 MB of names and counters.
const REMEMBERED: usize = 1 << 15;

#[derive(Debug)]
struct Entry {
    id: RuleId,
    users: u32,
    /// Its number is its own from this generation on.
    since: Generation,
    /// Without users: its place in the order in which they were lost.
    released: u64,
}

type Key = (Arc<str>, Action);

/// Rules by name and action.
#[derive(Debug)]
pub(crate) struct RuleBook {
    entries: HashMap<Key, Entry>,
    next: u32,
    /// Those without users, in the order in which they lost the last one, and the first generation without them.
    remembered: BTreeMap<u64, (Key, Generation)>,
    releases: u64,
    limit: usize,
    /// Numbers of names that are forgotten: older snapshots than this generation may have them.
    spent: VecDeque<(Generation, RuleId)>,
    /// Numbers that no snapshot has; the lowest are given first.
    free: BinaryHeap<Reverse<RuleId>>,
    /// Given again since the last build.
    reused: BTreeSet<RuleId>,
    /// What was built, oldest first, without those at the front that are no more.
    snapshots: VecDeque<(Generation, Weak<Snapshot>)>,
    /// That of the next build.
    preparing: Generation,
}

impl Default for RuleBook {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            next: 0,
            remembered: BTreeMap::new(),
            releases: 0,
            limit: REMEMBERED,
            spent: VecDeque::new(),
            free: BinaryHeap::new(),
            reused: BTreeSet::new(),
            snapshots: VecDeque::new(),
            preparing: Generation(1),
        }
    }
}

impl RuleBook {
    /// The rule's number, with one user more. Since when it is this rule's is the book's to say.
    pub(crate) fn acquire(&mut self, tables: &mut Tables, mut info: RuleInfo) -> RuleId {
        let key = (info.name.clone(), info.action);
        let id = if let Some(entry) = self.entries.get_mut(&key) {
            if entry.users == 0 {
                self.remembered.remove(&entry.released);
            }
            entry.users += 1;
            info.since = entry.since;
            entry.id
        } else {
            let (id, since) = (self.number(), self.preparing);
            self.entries.insert(key, Entry { id, users: 1, since, released: 0 });
            info.since = since;
            id
        };
        if tables.rule(id).is_none_or(|known| **known != info) {
            tables.set_rule(id, Some(Arc::new(info)));
        }
        id
    }

    /// One user less.
    pub(crate) fn release(&mut self, tables: &mut Tables, id: RuleId) {
        let Some(key) = tables.rule(id).map(|info| (info.name.clone(), info.action)) else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        tables.set_rule(id, None);
        entry.released = self.releases;
        self.remembered.insert(self.releases, (key, self.preparing));
        self.releases += 1;
        self.forget();
    }

    /// Up to so many rules that are no more are remembered.
    pub(crate) fn remember(&mut self, limit: usize) {
        self.limit = limit;
        self.forget();
    }

    /// The next build's generation comes after this one.
    pub(crate) fn go_on_from(&mut self, generation: Generation) {
        self.preparing = self.preparing.max(Generation(generation.0 + 1));
    }

    /// What has been prepared is in this snapshot. Which numbers in it were other rules' in earlier ones, sorted.
    pub(crate) fn built(&mut self, snapshot: &Arc<Snapshot>) -> Vec<RuleId> {
        self.reclaim();
        self.snapshots.push_back((snapshot.generation(), Arc::downgrade(snapshot)));
        self.go_on_from(snapshot.generation());
        std::mem::take(&mut self.reused).into_iter().collect()
    }

    fn forget(&mut self) {
        while self.remembered.len() > self.limit
            && let Some((_, (key, generation))) = self.remembered.pop_first()
        {
            let entry = self.entries.remove(&key);
            self.spent.extend(entry.map(|entry| (generation, entry.id)));
        }
    }

    fn number(&mut self) -> RuleId {
        if self.free.is_empty() {
            self.reclaim();
        }
        if let Some(Reverse(id)) = self.free.pop() {
            self.reused.insert(id);
            return id;
        }
        let id = RuleId(self.next);
        self.next = self.next.saturating_add(1);
        id
    }

    /// Frees the numbers that no snapshot has any more.
    fn reclaim(&mut self) {
        while self.snapshots.front().is_some_and(|(_, snapshot)| snapshot.strong_count() == 0) {
            self.snapshots.pop_front();
        }
        // What was done with a snapshot before its last owner let it go comes before whatever is done with the number now.
        fence(Ordering::Acquire);
        let oldest = self.snapshots.front().map(|(generation, _)| *generation);
        while let Some((without, id)) = self.spent.front().copied()
            && oldest.is_none_or(|oldest| oldest >= without)
        {
            self.spent.pop_front();
            self.free.push(Reverse(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_engine::{Direction, Tier};

    /// A book, the tables that it writes, and what was built of them.
    struct Rig {
        book: RuleBook,
        tables: Tables,
        generation: u64,
    }

    impl Rig {
        fn new(remembered: usize) -> Self {
            let mut book = RuleBook::default();
            book.remember(remembered);
            Self { book, tables: Tables::new(), generation: 0 }
        }

        fn acquire(&mut self, name: &str) -> RuleId {
            self.book.acquire(&mut self.tables, info(name))
        }

        fn release(&mut self, id: RuleId) {
            self.book.release(&mut self.tables, id);
        }

        fn build(&mut self) -> (Arc<Snapshot>, Vec<RuleId>) {
            self.generation += 1;
            let snapshot = Arc::new(Snapshot::new(Generation(self.generation), self.tables.clone()));
            let reused = self.book.built(&snapshot);
            (snapshot, reused)
        }

        fn since(&self, id: RuleId) -> Generation {
            self.tables.rule(id).unwrap().since
        }
    }

    fn info(name: &str) -> RuleInfo {
        RuleInfo {
            name: name.into(),
            tier: Tier::NetworkPolicy,
            namespace: "n".into(),
            policy: "p".into(),
            direction: Direction::Ingress,
            action: Action::Accept,
            default_deny: false,
            since: Generation(0),
        }
    }

    #[test]
    fn a_name_keeps_its_number_and_a_number_its_name() {
        let mut rig = Rig::new(REMEMBERED);
        let a = rig.acquire("a");
        assert_eq!(rig.acquire("a"), a);
        let b = rig.acquire("b");
        rig.release(a);
        assert!(rig.tables.rule(a).is_some(), "one user is left");
        rig.release(a);
        assert!(rig.tables.rule(a).is_none());
        let since = rig.build().0.generation();
        let c = rig.acquire("c");
        assert!(c != a && c != b);
        assert_eq!(rig.acquire("a"), a, "the same name counts on");
        assert_eq!((rig.since(a), rig.since(c)), (since, Generation(since.0 + 1)));
        let names: Vec<_> = rig.tables.rules().map(|(id, i)| (id, i.name.to_string())).collect();
        assert_eq!(names, [(a, "a".to_owned()), (b, "b".to_owned()), (c, "c".to_owned())]);
    }

    #[test]
    fn two_actions_of_one_name_have_two_numbers() {
        let mut rig = Rig::new(REMEMBERED);
        let accept = rig.acquire("a");
        let deny = rig.book.acquire(&mut rig.tables, RuleInfo { action: Action::Deny, ..info("a") });
        assert_ne!(accept, deny);
        rig.release(accept);
        assert!(rig.tables.rule(accept).is_none() && rig.tables.rule(deny).is_some());
    }

    #[test]
    fn a_number_is_another_names_only_when_no_snapshot_has_it() {
        let mut rig = Rig::new(0);
        let a = rig.acquire("a");
        let (with, _) = rig.build();
        rig.release(a);
        assert_ne!(rig.acquire("b"), a, "released, but in force");
        let (without, reused) = rig.build();
        assert_ne!(rig.acquire("c"), a, "somebody has the older snapshot");
        assert_eq!(reused, []);
        drop(with);
        assert_eq!(rig.acquire("d"), a);
        let (_, reused) = rig.build();
        assert_eq!((reused, rig.since(a)), (vec![a], Generation(3)));
        drop(without);
        assert_eq!(rig.build().1, [], "told once");
    }

    #[test]
    fn a_snapshot_in_between_may_go_before_an_older_one() {
        let mut rig = Rig::new(0);
        let a = rig.acquire("a");
        let (first, _) = rig.build();
        let (second, _) = rig.build();
        rig.release(a);
        let (_third, _) = rig.build();
        drop(second);
        assert_ne!(rig.acquire("b"), a);
        drop(first);
        assert_eq!(rig.acquire("c"), a);
    }

    #[test]
    fn the_names_that_went_last_are_remembered() {
        let mut rig = Rig::new(2);
        let ids = ["a", "b", "c"].map(|name| rig.acquire(name));
        // One that comes and goes again and again takes no other's place.
        for _ in 0..5 {
            rig.release(ids[0]);
            assert_eq!(rig.acquire("a"), ids[0]);
        }
        for id in [ids[1], ids[2], ids[0]] {
            rig.release(id);
        }
        assert_eq!((rig.acquire("c"), rig.acquire("a")), (ids[2], ids[0]));
        assert_eq!((rig.acquire("new"), rig.acquire("b").0), (ids[1], 3), "b was forgotten");
    }

    #[test]
    fn ever_new_names_do_not_pile_up() {
        const RULES: u32 = 500;
        let mut rig = Rig::new(1000);
        let mut in_force = rig.build().0;
        for round in 0..100 {
            let ids: Vec<RuleId> = (0..RULES).map(|i| rig.acquire(&format!("{round}/{i}"))).collect();
            in_force = rig.build().0;
            assert_eq!(in_force.rules().count(), RULES as usize);
            ids.into_iter().for_each(|id| rig.release(id));
            in_force = rig.build().0;
        }
        drop(in_force);
        let book = &rig.book;
        // Those that are there, those that are remembered, and those of the snapshot before.
        assert!(book.next <= 2 * RULES + 1000, "{} numbers", book.next);
        assert_eq!((book.entries.len(), book.remembered.len()), (1000, 1000));
        assert_eq!(book.next as usize, book.entries.len() + book.spent.len() + book.free.len());
        assert!(book.snapshots.len() <= 2);
    }
}
