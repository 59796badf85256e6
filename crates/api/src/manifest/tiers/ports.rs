//! Which ports a rule is about: `protocols` of v1alpha2, `ports` of v1alpha1.

use super::Reading;
use crate::manifest::path::Path;
use crate::manifest::tree::{Entry, Node};
use crate::manifest::validate;
use crate::{Kind, PortMatch, Protocol};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The ports of a rule.
#[derive(Debug, Default)]
pub(super) struct RulePorts {
    pub(super) known: Vec<PortMatch>,
    /// Some are told by name.
    pub(super) names_a_port: bool,
}

impl<'n> Reading<'_, 'n> {
    /// Reads the ports of a rule; `None` where complaints were made. What no known field tells goes to `newer`.
    pub(super) fn ports(&mut self, rule: &'n Node<'n>, path: &Path<'_>, newer: &mut Vec<String>) -> Option<RulePorts> {
        let key = self.dialect.ports;
        let mut ports = RulePorts::default();
        if super::present(rule, key).is_none() {
            return Some(ports);
        }
        let items = self.list(rule, key, path)?;
        if !(1..=self.dialect.most).contains(&items.len()) {
            let most = self.dialect.most;
            self.wrong(
                path,
                &format!("has {} items, but must have 1 to {most} (leave {key} out for all)", items.len()),
            );
        }
        let mut understood = true;
        for (i, item) in items.iter().enumerate() {
            let path = path.index(i);
            understood &= match self.dialect.kind {
                Kind::ClusterNetworkPolicy => self.protocol(item, &path, &mut ports, newer),
                _ => self.port(item, &path, &mut ports, newer),
            }
            .is_some();
        }
        understood.then_some(ports)
    }

    /// An item of v1alpha2.
    fn protocol(
        &mut self,
        item: &'n Node<'n>,
        path: &Path<'_>,
        ports: &mut RulePorts,
        newer: &mut Vec<String>,
    ) -> Option<()> {
        let field = self.one_field(item, path, &["tcp", "udp", "sctp", "destinationNamedPort"], newer)?;
        let path = path.key(&field.key);
        let protocol = match &*field.key {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return self.named(item, field, &path, ports),
        };
        if !self.mapping(&field.value, &path, &["destinationPort"]) {
            return None;
        }
        let path = path.key("destinationPort");
        let Some(port) = super::present(&field.value, "destinationPort").map(|entry| &entry.value) else {
            self.wrong(&path, "is missing; name a number or a range (1 to 65535: every port)");
            return None;
        };
        if !self.mapping(port, &path, &["number", "range"]) {
            return None;
        }
        let (first, last) = match (super::present(port, "number"), super::present(port, "range")) {
            (Some(_), None) => {
                let number = self.number(port, &path, "number")?;
                (number, number)
            }
            (None, Some(range)) => {
                let path = path.key("range");
                if !self.mapping(&range.value, &path, &["start", "end"]) {
                    return None;
                }
                let (first, last) = self.range(&range.value, &path)?;
                if first == last {
                    self.wrong(&path.key("end"), "must be greater than start; write a single port as number");
                }
                (first, last)
            }
            _ => {
                self.wrong(&path, "must have either number or range");
                return None;
            }
        };
        ports.known.push(PortMatch::Range { protocol, first, last });
        Some(())
    }

    /// An item of v1alpha1.
    fn port(
        &mut self,
        item: &'n Node<'n>,
        path: &Path<'_>,
        ports: &mut RulePorts,
        newer: &mut Vec<String>,
    ) -> Option<()> {
        let field = self.one_field(item, path, &["portNumber", "portRange", "namedPort"], newer)?;
        let path = path.key(&field.key);
        let (first, last) = match &*field.key {
            "portNumber" => {
                if !self.mapping(&field.value, &path, &["protocol", "port"]) {
                    return None;
                }
                let number = self.number(&field.value, &path, "port")?;
                (number, number)
            }
            "portRange" => {
                if !self.mapping(&field.value, &path, &["protocol", "start", "end"]) {
                    return None;
                }
                self.range(&field.value, &path)?
            }
            _ => return self.named(item, field, &path, ports),
        };
        let protocol = match super::present(&field.value, "protocol") {
            None => Protocol::Tcp,
            Some(_) => {
                let path = path.key("protocol");
                let word = self.value::<String>(&field.value, &path, "protocol")?;
                validate::protocol(&word).map_err(|message| self.wrong(&path, &message)).ok()?
            }
        };
        ports.known.push(PortMatch::Range { protocol, first, last });
        Some(())
    }

    /// A port by name has the protocol that the pod's port has.
    fn named(
        &mut self,
        item: &'n Node<'n>,
        field: &'n Entry<'n>,
        path: &Path<'_>,
        ports: &mut RulePorts,
    ) -> Option<()> {
        ports.names_a_port = true;
        let name = self.value::<String>(item, path, &field.key)?;
        validate::port_name(&name).map_err(|message| self.wrong(path, &message)).ok()?;
        ports.known.extend(PROTOCOLS.map(|protocol| PortMatch::Named { protocol, name: name.clone() }));
        Some(())
    }

    fn range(&mut self, node: &'n Node<'n>, path: &Path<'_>) -> Option<(u16, u16)> {
        let (first, last) = (self.number(node, path, "start"), self.number(node, path, "end"));
        let (first, last) = (first?, last?);
        if first > last {
            self.wrong(&path.key("end"), &format!("must be greater than start, but {last} < {first}"));
            return None;
        }
        Some((first, last))
    }

    fn number(&mut self, node: &'n Node<'n>, path: &Path<'_>, key: &str) -> Option<u16> {
        let path = path.key(key);
        let number = self.value::<i32>(node, &path, key)?;
        validate::port_number(number).map_err(|message| self.wrong(&path, &message)).ok()
    }
}
