//! One rule: its name and action, and what becomes of it where something in it can't be understood.

use super::{Reading, closed, doubtful, present};
use crate::manifest::path::Path;
use crate::manifest::tree::Node;
use crate::{Action, Direction, Peers, Rule};

/// The longest name of a rule, in characters.
const LONGEST_NAME: usize = 100;

impl<'n> Reading<'_, 'n> {
    /// Reads a rule; complaints of whatever else than its name close it.
    pub(super) fn rule(
        &mut self,
        node: &'n Node<'n>,
        path: &Path<'_>,
        direction: Direction,
        caveats: &mut Vec<String>,
    ) -> Rule {
        let (peers_key, ports_key) = (peers_key(direction), self.dialect.ports);
        let known = self.mapping(node, path, &["name", "action", peers_key, ports_key]) && !doubtful(node, true);
        let action = self.action(node, path);
        let accepts = action == Some(Action::Accept);
        let mut newer = Vec::new();
        let peers = self.peers(node, &path.key(peers_key), direction, action, &mut newer, caveats);
        let ports = self.ports(node, &path.key(ports_key), &mut newer);
        let named = ports.as_ref().is_some_and(|ports| ports.names_a_port);
        let nodeless = peers.as_ref().is_none_or(|peers| peers.all_pods);
        if named && !nodeless {
            let message = "names a port, but only pods have named ports: no networks, nodes or domainNames may stand \
                           in the same rule; make two rules of it";
            self.wrong(&path.key(ports_key), message);
        }
        let clean = known && self.report.is_clean();
        let name = self.name(node, path);
        let instead = if accepts { "matches nothing" } else { "denies everything" };
        for what in &newer {
            caveats.push(format!(
                "{what}; until this is mended, or podgate is of a version that knows it, the rule {instead}"
            ));
        }
        match (action, peers, ports) {
            (Some(action), Some(peers), Some(ports)) if clean && newer.is_empty() => {
                Rule { name, action, peers: Peers::Of(peers.known), ports: ports.known }
            }
            _ => closed(name, accepts),
        }
    }

    fn action(&mut self, node: &'n Node<'n>, path: &Path<'_>) -> Option<Action> {
        let path = path.key("action");
        let word = self.value::<String>(node, &path, "action")?;
        match word.as_str() {
            "Deny" => Some(Action::Deny),
            word if !self.dialect.actions.contains(&word) => {
                let (last, others) = self.dialect.actions.split_last()?;
                self.wrong(&path, &format!("{word:?} is no action here: {} or {last}", others.join(", ")));
                None
            }
            "Pass" => Some(Action::Pass),
            _ => Some(Action::Accept),
        }
    }

    /// The name, where it tells the rule from others: not one that looks like a rule's number, or like what stands
    /// behind all rules, or that would not fit into a line.
    fn name(&mut self, node: &'n Node<'n>, path: &Path<'_>) -> Option<String> {
        present(node, "name")?;
        let path = path.key("name");
        let name = self.value::<String>(node, &path, "name")?;
        if name.chars().count() > LONGEST_NAME {
            self.wrong(&path, &format!("must not be longer than {LONGEST_NAME} characters"));
        }
        let number = name.bytes().all(|b| b.is_ascii_digit());
        (!number && name != "default-deny" && !name.chars().any(char::is_control)).then_some(name)
    }
}

fn peers_key(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}
