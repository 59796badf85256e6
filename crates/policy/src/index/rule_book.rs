//! [`RuleBook`]: rules by name and action. Such a pair keeps its number while anything has it, and a number never gets
//! another name. (A ClusterNetworkPolicy and an AdminNetworkPolicy of one name can have rules of one name.)

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use podgate_engine::{Action, RuleId, RuleInfo, Tables};

/// Names of rules that are no more are remembered up to this many, so that a policy that is deleted and made again
/// goes on counting where it was, and a process that sees ever new names does not grow for ever.
const REMEMBERED: usize = 1 << 16;

#[derive(Debug)]
struct Entry {
    id: RuleId,
    users: u32,
}

type Key = (Arc<str>, Action);

/// Rules by name and action.
#[derive(Debug, Default)]
pub(crate) struct RuleBook {
    entries: HashMap<Key, Entry>,
    next: u32,
    /// Those that lost their last user, oldest first; some may have users again.
    retired: VecDeque<Key>,
}

impl RuleBook {
    /// The rule's number, with one user more.
    pub(crate) fn acquire(&mut self, tables: &mut Tables, info: RuleInfo) -> RuleId {
        let entry = self.entries.entry((info.name.clone(), info.action)).or_insert_with(|| {
            let id = RuleId(self.next);
            self.next = self.next.saturating_add(1);
            Entry { id, users: 0 }
        });
        entry.users += 1;
        let id = entry.id;
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
        self.retired.push_back(key);
        if self.retired.len() > REMEMBERED
            && let Some(oldest) = self.retired.pop_front()
            && self.entries.get(&oldest).is_some_and(|e| e.users == 0)
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_engine::{Direction, Tier};

    fn info(name: &str) -> RuleInfo {
        RuleInfo {
            name: name.into(),
            tier: Tier::NetworkPolicy,
            namespace: "n".into(),
            policy: "p".into(),
            direction: Direction::Ingress,
            action: Action::Accept,
            default_deny: false,
        }
    }

    #[test]
    fn a_name_keeps_its_number_and_a_number_its_name() {
        let (mut book, mut tables) = (RuleBook::default(), Tables::new());
        let a = book.acquire(&mut tables, info("a"));
        assert_eq!(book.acquire(&mut tables, info("a")), a);
        let b = book.acquire(&mut tables, info("b"));
        book.release(&mut tables, a);
        assert!(tables.rule(a).is_some(), "one user is left");
        book.release(&mut tables, a);
        assert!(tables.rule(a).is_none());
        let c = book.acquire(&mut tables, info("c"));
        assert!(c != a && c != b);
        assert_eq!(book.acquire(&mut tables, info("a")), a, "the same name counts on");
        let names: Vec<_> = tables.rules().map(|(id, i)| (id, i.name.to_string())).collect();
        assert_eq!(names, [(a, "a".to_owned()), (b, "b".to_owned()), (c, "c".to_owned())]);
    }

    #[test]
    fn two_actions_of_one_name_have_two_numbers() {
        let (mut book, mut tables) = (RuleBook::default(), Tables::new());
        let accept = book.acquire(&mut tables, info("a"));
        let deny = book.acquire(&mut tables, RuleInfo { action: Action::Deny, ..info("a") });
        assert_ne!(accept, deny);
        book.release(&mut tables, accept);
        assert!(tables.rule(accept).is_none() && tables.rule(deny).is_some());
    }

    #[test]
    fn ever_new_names_do_not_pile_up() {
        let (mut book, mut tables) = (RuleBook::default(), Tables::new());
        for i in 0..REMEMBERED + 1000 {
            let id = book.acquire(&mut tables, info(&i.to_string()));
            book.release(&mut tables, id);
        }
        assert_eq!((book.entries.len(), book.retired.len()), (REMEMBERED, REMEMBERED));
    }
}
