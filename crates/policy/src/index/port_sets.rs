//! [`PortSets`]: the named ports of pods, each set kept once, and the names that pods and rules have in common.

use podgate_api::{ContainerPort, Protocol};
use podgate_engine::{PortNames, Tables};

use super::interner::Interner;
use super::labels::{Sym, Symbols};

/// (protocol, port, name), sorted.
type PortSet = [(u8, u16, u32)];

/// Names of ports by number (protocol and name in one), and sets of named ports; set 0 is empty.
#[derive(Debug)]
pub(crate) struct PortSets {
    names: Interner<(u8, Sym)>,
    sets: Interner<PortSet>,
}

impl Default for PortSets {
    fn default() -> Self {
        let mut sets = Interner::default();
        sets.acquire(Vec::new());
        Self { names: Interner::default(), sets }
    }
}

impl PortSets {
    /// A name's number, with one user more.
    pub(crate) fn acquire_name(&mut self, symbols: &mut Symbols, protocol: Protocol, name: &str) -> u32 {
        let sym = symbols.acquire(name).0;
        let (id, new) = self.names.acquire((protocol.number(), sym));
        if !new {
            symbols.release(sym);
        }
        id
    }

    /// One user less.
    pub(crate) fn release_name(&mut self, symbols: &mut Symbols, name: u32) {
        if let Some(name) = self.names.release(name) {
            symbols.release(name.1);
        }
    }

    /// The number of these ports, with one user more; new sets are put into the tables.
    pub(crate) fn acquire(&mut self, symbols: &mut Symbols, tables: &mut Tables, ports: &[ContainerPort]) -> u32 {
        let named =
            ports.iter().map(|p| (p.protocol.number(), p.number, self.acquire_name(symbols, p.protocol, &p.name)));
        let mut set: Vec<_> = named.collect();
        set.sort_unstable();
        // The same port twice is one port; its name has one user per entry that stays.
        set.dedup_by(|a, b| {
            let same = a == b;
            if same {
                self.release_name(symbols, a.2);
            }
            same
        });
        let (id, new) = self.sets.acquire(set.clone());
        if new {
            tables.set_port_names(id, Some(PortNames::new(set)));
        } else {
            set.iter().for_each(|p| self.release_name(symbols, p.2));
        }
        id
    }

    /// One user less.
    pub(crate) fn release(&mut self, symbols: &mut Symbols, tables: &mut Tables, set: u32) {
        if let Some(ports) = self.sets.release(set) {
            tables.set_port_names(set, None);
            ports.iter().for_each(|p| self.release_name(symbols, p.2));
        }
    }

    /// How many names and sets there are, without the empty one.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.names.len(), self.sets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_kept_once_and_leave_nothing_behind() {
        let (mut sets, mut symbols, mut tables) = (PortSets::default(), Symbols::default(), Tables::new());
        let port = |name: &str, number| ContainerPort { name: name.to_owned(), protocol: Protocol::Tcp, number };
        let ports = [port("http", 80), port("metrics", 9090), port("http", 80)];
        let a = sets.acquire(&mut symbols, &mut tables, &ports);
        let b = sets.acquire(&mut symbols, &mut tables, &[port("metrics", 9090), port("http", 80)]);
        assert_eq!(a, b);
        assert!(tables.port_names(a).is_some());
        let rule = sets.acquire_name(&mut symbols, Protocol::Tcp, "http");
        assert_eq!(sets.len(), (2, 1));
        sets.release(&mut symbols, &mut tables, a);
        sets.release(&mut symbols, &mut tables, b);
        assert_eq!((sets.len(), tables.port_names(a)), ((1, 0), None));
        sets.release_name(&mut symbols, rule);
        assert_eq!((sets.len(), symbols.len()), ((0, 0), 0));
        let empty = sets.acquire(&mut symbols, &mut tables, &[]);
        assert_eq!(empty, 0);
        sets.release(&mut symbols, &mut tables, empty);
        assert!(tables.port_names(0).is_some());
    }
}
