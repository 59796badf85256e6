//! [`Conntrack`]: how full the kernel's connection table is, read at each scrape. When it is full the kernel drops packets
//! of new connections before anybody here sees them, so nothing else that is told here would show it.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name, describe};

const ENTRIES: Name =
    ("podgate_conntrack_entries", "Connections that the kernel tracks in this network namespace now.");
const LIMIT: Name = (
    "podgate_conntrack_limit",
    "Connections that the kernel may track (net.netfilter.nf_conntrack_max); past it new ones are dropped unseen.",
);
const DROPPED: Name = (
    "podgate_conntrack_dropped_packets_total",
    "Packets that the kernel dropped because its connection table was full, since the machine's start.",
);

/// Of the namespace in which it is asked; what the kernel does not tell has no series.
pub(crate) struct Conntrack {
    descriptions: Vec<Desc>,
}

impl Conntrack {
    pub(crate) fn new() -> Self {
        Conntrack { descriptions: describe(&[ENTRIES, LIMIT, DROPPED]) }
    }
}

impl Collector for Conntrack {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sysctl = |name: &str| {
            fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?.trim().parse::<f64>().ok()
        };
        // Of the thread's namespace, where the other file is of the process'.
        let stat = fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").ok();
        let one = |name, kind, value: Option<f64>| {
            let mut family = Family::new(name, kind);
            if let Some(value) = value {
                family.push(&[], value);
            }
            family.finish()
        };
        vec![
            one(ENTRIES, MetricType::GAUGE, sysctl("count")),
            one(LIMIT, MetricType::GAUGE, sysctl("max")),
            one(DROPPED, MetricType::COUNTER, stat.as_deref().and_then(dropped).map(|packets| packets as f64)),
        ]
    }
}

/// The column `drop`, of all processors (`ct_cpu_seq_show` in net/netfilter/nf_conntrack_standalone.c): a line of names,
/// then hexadecimal numbers.
fn dropped(stat: &str) -> Option<u64> {
    let mut lines = stat.lines();
    let column = lines.next()?.split_ascii_whitespace().position(|name| name == "drop")?;
    lines.map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(column)?, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_processors_count() {
        let stat = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n\
                    0000ea60  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000000a 00000001\n\
                    0000ea60  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000010 00000002\n";
        assert_eq!(dropped(stat), Some(26));
        assert_eq!(dropped("entries found\n1 2\n"), None);
        assert_eq!(dropped(""), None);
    }
}
