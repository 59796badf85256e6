//! [`PortNames`]: which names a destination's ports have.

use crate::Port;
use crate::ports::port_key;

/// The names of a destination's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PortNames {
    /// (key, name), sorted.
    names: Box<[(u32, u32)]>,
    just_names: Box<[u32]>,
}

impl PortNames {
    /// From (protocol, port, name) in any order; a name is a number below 2^30 that stands for protocol and name.
    pub fn new(ports: impl IntoIterator<Item = (u8, u16, u32)>) -> Self {
        let of_port = |(protocol, port, name)| (port_key(protocol, Port::Number(port)), name);
        let ports: Vec<_> = ports.into_iter().collect();
        let not_shown = |(protocol, _, name)| (port_key(protocol, Port::Unknown), name);
        let mut names: Vec<_> =
            ports.iter().copied().map(of_port).chain(ports.iter().copied().map(not_shown)).collect();
        names.sort_unstable();
        names.dedup();
        Self { just_names: names.iter().map(|n| n.1).collect(), names: names.into() }
    }

    /// The names of the port with this key; of every port of the protocol, if the key shows none.
    #[inline]
    pub(crate) fn of(&self, key: u32) -> &[u32] {
        let first = self.names.partition_point(|n| n.0 < key);
        let count = self.names.get(first..).unwrap_or_default().iter().take_while(|n| n.0 == key).count();
        self.just_names.get(first..first + count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::{TCP, UDP};

    #[test]
    fn names_are_those_of_the_destination_and_of_its_protocol() {
        let names = PortNames::new([(TCP, 8080, 1), (TCP, 8080, 2), (TCP, 9090, 1), (UDP, 8080, 3)]);
        let of = |protocol, port| names.of(port_key(protocol, port)).to_vec();
        assert_eq!(of(TCP, Port::Number(8080)), [1, 2]);
        assert_eq!(of(TCP, Port::Number(9090)), [1]);
        assert_eq!(of(UDP, Port::Number(8080)), [3]);
        assert_eq!(of(TCP, Port::Unknown), [1, 2]);
        assert!(of(UDP, Port::Number(9090)).is_empty());
        assert!(PortNames::default().of(port_key(TCP, Port::Number(8080))).is_empty());
    }
}
