//! Whom a rule is about, and the selectors that subjects have too.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{Reading, present};
use crate::manifest::decode::{self, Unknown};
use crate::manifest::path::Path;
use crate::manifest::tree::{Entry, Node, Value};
use crate::manifest::validate;
use crate::{Action, Direction, IpBlock, LabelSelector, NamespaceMatch, Peer};

/// The most networks or domain names of one peer.
const MOST_NAMED: usize = 25;

/// The peers of a rule.
#[derive(Debug, Default)]
pub(super) struct RulePeers {
    pub(super) known: Vec<Peer>,
    /// They are pods, so that ports may be named.
    pub(super) all_pods: bool,
}

impl<'n> Reading<'_, 'n> {
    /// Reads the peers of a rule; `None` where complaints were made. What no known field tells goes to `newer`, what is
    /// not enforced to `caveats`.
    pub(super) fn peers(
        &mut self,
        rule: &'n Node<'n>,
        path: &Path<'_>,
        direction: Direction,
        action: Option<Action>,
        newer: &mut Vec<String>,
        caveats: &mut Vec<String>,
    ) -> Option<RulePeers> {
        let Path::Key(_, key) = path else { return None };
        let items = self.list(rule, key, path)?;
        if items.is_empty() {
            self.wrong(path, "needs at least one peer (namespaces: {} means every pod)");
            return None;
        }
        if items.len() > self.dialect.most {
            let message = format!("has {} peers, but {} at most are allowed", items.len(), self.dialect.most);
            self.wrong(path, &message);
        }
        let mut peers = RulePeers { all_pods: true, ..RulePeers::default() };
        let mut understood = true;
        for (i, item) in items.iter().enumerate() {
            let path = path.index(i);
            understood &= self.peer(item, &path, direction, action, &mut peers, newer, caveats).is_some();
        }
        understood.then_some(peers)
    }

    #[allow(clippy::too_many_arguments)] // where it stands, and where what it says goes
    fn peer(
        &mut self,
        item: &'n Node<'n>,
        path: &Path<'_>,
        direction: Direction,
        action: Option<Action>,
        peers: &mut RulePeers,
        newer: &mut Vec<String>,
        caveats: &mut Vec<String>,
    ) -> Option<()> {
        let known = match direction {
            Direction::Ingress => &["namespaces", "pods"],
            Direction::Egress => self.dialect.egress_peers,
        };
        let field = self.one_field(item, path, known, newer)?;
        let path = path.key(&field.key);
        peers.all_pods &= matches!(&*field.key, "namespaces" | "pods");
        match &*field.key {
            "namespaces" => {
                let namespaces = NamespaceMatch::Labels(self.selector(field, &path)?);
                peers.known.push(Peer::Pods { namespaces, pods: LabelSelector::default() });
            }
            "pods" => {
                let (namespaces, pods) = self.namespaced_pods(field, &path)?;
                peers.known.push(Peer::Pods { namespaces, pods });
            }
            "nodes" => peers.known.push(Peer::Nodes(self.selector(field, &path)?)),
            "networks" => {
                for (i, text) in self.texts(field, &path)?.iter().enumerate() {
                    match validate::cidr(text) {
                        Ok(cidr) => peers.known.push(Peer::Block(IpBlock { cidr, except: Vec::new() })),
                        Err(message) => self.wrong(&path.index(i), &message),
                    }
                }
            }
            _ => {
                for (i, text) in self.texts(field, &path)?.iter().enumerate() {
                    validate::domain_name(text).unwrap_or_else(|message| self.wrong(&path.index(i), &message));
                }
                if action == Some(Action::Accept) {
                    caveats.push(format!(
                        "{path}: podgate does not know the addresses of domain names yet, so these match nothing; name \
                         addresses by networks"
                    ));
                } else {
                    self.wrong(&path, &format!("can only stand in rules with action {}", self.dialect.accept));
                }
            }
        }
        Some(())
    }

    /// The one field that an item has, of those known. An item without any known field is of a newer API.
    pub(super) fn one_field(
        &mut self,
        item: &'n Node<'n>,
        path: &Path<'_>,
        known: &[&str],
        newer: &mut Vec<String>,
    ) -> Option<&'n Entry<'n>> {
        if !item.is_null() && !matches!(item.value, Value::Map(_)) {
            self.wrong(path, &format!("must be a mapping, but is {}", item.what()));
            return None;
        }
        let fields: Vec<_> = item.entries().iter().filter(|entry| !entry.value.is_null()).collect();
        let names = || known.join(", ");
        match fields.iter().find(|field| known.contains(&&*field.key)) {
            Some(field) if fields.len() == 1 => Some(*field),
            Some(_) => {
                self.wrong(path, &format!("must have exactly one field of {}; make several items of it", names()));
                None
            }
            None => {
                let there = match fields.as_slice() {
                    [] => "it has no field".to_owned(),
                    fields => {
                        let fields: Vec<&str> = fields.iter().map(|field| &*field.key).collect();
                        format!("no field of it ({}) is known", fields.join(", "))
                    }
                };
                newer.push(format!("{path}: {there} (what is known here: {})", names()));
                None
            }
        }
    }

    pub(super) fn selector(&mut self, field: &'n Entry<'n>, path: &Path<'_>) -> Option<LabelSelector> {
        let selector: meta::LabelSelector =
            decode::value(&field.value, field.line, path, Unknown::Refuse, self.report)?;
        let mut valid = true;
        let selector = validate::selector(path, Some(&selector), &mut |path, message| {
            valid = false;
            self.wrong(path, &message);
        });
        valid.then_some(selector)
    }

    /// Pods by the labels of their namespaces and their own.
    pub(super) fn namespaced_pods(
        &mut self,
        field: &'n Entry<'n>,
        path: &Path<'_>,
    ) -> Option<(NamespaceMatch, LabelSelector)> {
        let node = &field.value;
        if !self.mapping(node, path, &["namespaceSelector", "podSelector"]) {
            return None;
        }
        let path_of_namespaces = path.key("namespaceSelector");
        let namespaces = match present(node, "namespaceSelector") {
            Some(entry) => self.selector(entry, &path_of_namespaces),
            None if self.dialect.kind == crate::Kind::ClusterNetworkPolicy => Some(LabelSelector::default()),
            None => {
                self.wrong(&path_of_namespaces, "is missing ({} means every namespace)");
                None
            }
        };
        let path_of_pods = path.key("podSelector");
        let Some(pods) = present(node, "podSelector") else {
            self.wrong(&path_of_pods, "is missing ({} means every pod)");
            return None;
        };
        let pods = self.selector(pods, &path_of_pods);
        Some((NamespaceMatch::Labels(namespaces?), pods?))
    }

    /// The items of a list of strings, at least one.
    fn texts(&mut self, field: &'n Entry<'n>, path: &Path<'_>) -> Option<Vec<String>> {
        let texts: Vec<String> = decode::value(&field.value, field.line, path, Unknown::Refuse, self.report)?;
        if !(1..=MOST_NAMED).contains(&texts.len()) {
            self.wrong(path, &format!("has {} items, but must have 1 to {MOST_NAMED}", texts.len()));
            return None;
        }
        for (i, text) in texts.iter().enumerate().filter(|(i, text)| texts[..*i].contains(text)) {
            self.wrong(&path.index(i), &format!("{text} stands twice in one list; keep one of the two"));
        }
        Some(texts)
    }
}
