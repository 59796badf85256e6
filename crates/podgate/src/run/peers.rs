//! [`Peers`]: the blocks of addresses that may be pods', as the kernel knows them: a verdict about everybody else, which it
//! repeats without asking for the source, must never be taken for one about a pod.
//!
//! A block joins before the snapshot is in use in which a pod has an address in it, and leaves after one in which none has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_netfilter::peer_blocks;
use podgate_policy::Build;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Where pods are, or will be on other nodes.
    networks: Vec<IpNet>,
    wanted: BTreeSet<IpAddr>,
    /// What the kernel holds.
    standing: BTreeSet<IpAddr>,
    /// What is wanted may be another than what the kernel holds.
    changed: bool,
    /// There are more than the kernel is told of.
    too_many: bool,
}

impl Peers {
    /// Takes a build's news into the books; `ranges` are those of this node, where pods may come up.
    pub(super) fn take_in(&mut self, build: &Build, ranges: &[IpNet]) {
        if build.pod_networks.is_none() && build.pod_ranges.is_none() {
            return;
        }
        if let Some(networks) = &build.pod_networks {
            self.networks.clone_from(networks);
        }
        let wanted = peer_blocks(self.networks.iter().chain(ranges));
        if wanted.is_none() && !self.too_many {
            tracing::info!(
                "pods' addresses lie in very many blocks: floods of forged sources are judged packet by packet"
            );
        }
        self.too_many = wanted.is_none();
        self.wanted = wanted.unwrap_or_default();
        self.changed = true;
    }

    /// Whether the kernel can tell pods' addresses from others.
    pub(super) fn are_told(&self) -> bool {
        !self.too_many
    }

    /// What is to be added.
    pub(super) fn missing(&self) -> Vec<(IpAddr, bool)> {
        if !self.changed {
            return Vec::new();
        }
        self.wanted.difference(&self.standing).map(|block| (*block, true)).collect()
    }

    /// What may be taken out.
    pub(super) fn surplus(&self) -> Vec<(IpAddr, bool)> {
        if !self.changed {
            return Vec::new();
        }
        self.standing.difference(&self.wanted).map(|block| (*block, false)).collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(IpAddr, bool)> {
        self.wanted.iter().map(|block| (*block, true)).collect()
    }

    /// The kernel has made this change.
    pub(super) fn made(&mut self, changes: &[(IpAddr, bool)]) {
        for (block, is_peer) in changes {
            if *is_peer {
                self.standing.insert(*block);
            } else {
                self.standing.remove(block);
            }
        }
        self.changed &= self.standing != self.wanted;
    }

    /// The kernel holds all that is wanted, and nothing else.
    pub(super) fn stand(&mut self) {
        self.standing.clone_from(&self.wanted);
        self.changed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_policy::{Index, Locality};

    fn told(peers: &mut Peers, networks: &[&str], ranges: &[&str]) {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpNet>>();
        let (networks, ranges) = (nets(networks), nets(ranges));
        let build = Index::new(Locality::All).build();
        let build = Build { pod_networks: Some(networks), pod_ranges: Some(ranges.clone()), ..build };
        peers.take_in(&build, &ranges);
    }

    #[test]
    fn blocks_join_at_once_and_leave_when_they_may() {
        let (mut peers, at) = (Peers::default(), |text: &str| text.parse::<IpAddr>().unwrap());
        told(&mut peers, &["10.1.0.0/24", "10.2.0.0/24"], &["10.1.0.0/23"]);
        let missing = peers.missing();
        assert_eq!(missing, ["10.1.0.0", "10.1.1.0", "10.2.0.0"].map(|a| (at(a), true)));
        peers.made(&missing);
        told(&mut peers, &["10.3.0.0/24"], &["10.1.0.0/24"]);
        assert_eq!(peers.missing(), [(at("10.3.0.0"), true)]);
        assert_eq!(peers.surplus(), [(at("10.1.1.0"), false), (at("10.2.0.0"), false)]);
        peers.stand();
        assert!(peers.missing().is_empty() && peers.surplus().is_empty());
        assert_eq!(peers.all(), ["10.1.0.0", "10.3.0.0"].map(|a| (at(a), true)));
    }

    #[test]
    fn more_blocks_than_there_is_room_for_are_not_told() {
        let mut peers = Peers::default();
        told(&mut peers, &[], &["10.0.0.0/8"]);
        assert!(!peers.are_told() && peers.missing().is_empty());
        told(&mut peers, &[], &["10.0.0.0/16"]);
        assert!(peers.are_told() && peers.missing().len() == 256);
    }
}
