//! A status for people: first whether all is well and what is not, then the facts, a line each.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::report::{Cached, FailMode, Listed, QueueBy, Report, Source, SourceState};
use crate::telemetry::facts::duration;

/// The status as text, ending with a newline; ages are told as of `now`.
pub(super) fn text(report: &Report, now: SystemTime) -> String {
    let mut text = Text { text: String::new(), now };
    text.verdict(report);
    text.details("problems", &report.problems, |p| match &p.object {
        Some(object) => format!("{} {object}: {}", p.place, p.message),
        None => format!("{}: {}", p.place, p.message),
    });
    text.details("warnings", &report.warnings, |w| format!("{}: {}", w.object, w.message));
    text.facts(report);
    text.text
}

struct Text {
    text: String,
    now: SystemTime,
}

impl Text {
    /// The first lines: ready or not and why, what is stuck, what cannot be followed.
    fn verdict(&mut self, report: &Report) {
        let generation = match (report.generation, &report.in_force_since) {
            (Some(generation), Some(since)) => format!("generation {generation}, in force for {}", self.age(since)),
            _ => "nothing is in force".to_owned(),
        };
        match report.ready {
            true => self.line(format_args!("ready: {generation}")),
            false => {
                self.line(format_args!("not ready: {}", report.reasons.first().map_or("", String::as_str)));
                report.reasons.iter().skip(1).for_each(|reason| self.line(format_args!("           {reason}")));
                self.row("in force", &generation);
            }
        }
        if let Some(overload) = &report.overload {
            let (limit, age) = (overload.limit, self.age(&overload.since));
            self.row("overload", &format!("for {age}: each pod may have {limit} packets a second judged"));
            for over in overload.pods.first.iter().take(10) {
                let pod = match over.pod.as_str() {
                    "" => "no known pod".to_owned(),
                    pod => format!("{}/{pod}", over.namespace),
                };
                self.row("", &format!("{pod} had {} packets more", over.packets));
            }
        }
        report.troubles.iter().for_each(|trouble| self.row("not live", trouble));
        if let Some(saved) = &report.restored_from {
            let said =
                format!("the world in force is from disk, saved {} ago: the source has not told all", self.age(saved));
            self.row("restored", &said);
        }
        for source in &report.sources {
            if source.state == SourceState::Failing {
                let since = source.since.as_deref().map_or_else(String::new, |s| format!(" for {}", self.age(s)));
                let why = source.why.as_deref().unwrap_or("unknown");
                self.row("failing", &format!("{} not followed{since}: {why}", source.resource));
            }
        }
    }

    fn details<T>(&mut self, name: &str, listed: &Listed<T>, tell: impl Fn(&T) -> String) {
        if listed.total == 0 {
            return;
        }
        self.row(name, &listed.total.to_string());
        listed.first.iter().for_each(|one| self.line(format_args!("  {}", tell(one).replace('\n', "\n    "))));
        let more = listed.total - listed.first.len().min(listed.total);
        if more > 0 {
            self.line(format_args!("  and {more} more"));
        }
    }

    fn facts(&mut self, report: &Report) {
        let node = report.node.as_deref().unwrap_or("(no name: every pod is local)");
        let up = duration(Duration::from_secs(report.uptime_seconds));
        let Report { version, revision, kernel, pid, .. } = report;
        self.row("node", node);
        self.row("agent", &format!("podgate {version} ({revision}), process {pid}, up {up}, kernel {kernel}"));
        self.row("sources", &sources(&report.sources));
        let counts = &report.counts;
        self.row(
            "world",
            &format!(
                "{} pods ({} here), {} namespaces, {} nodes",
                counts.pods, counts.local_pods, counts.namespaces, counts.nodes
            ),
        );
        let tiers = &counts.policies;
        let all = tiers.admin + tiers.networkpolicy + tiers.baseline;
        self.row(
            "policies",
            &format!(
                "{all} ({} admin, {} networkpolicy, {} baseline); {} rules about pods here",
                tiers.admin, tiers.networkpolicy, tiers.baseline, counts.rules
            ),
        );
        self.divert(report);
        for queue in &report.queues {
            let lost = queue.dropped_full + queue.dropped_socket;
            let bound = if queue.bound { "" } else { ", nobody listens" };
            self.row(
                &format!("queue {}", queue.queue),
                &format!(
                    "{} wait, {} accepted, {} dropped by verdict, {lost} lost{bound}",
                    queue.depth, queue.accepted, queue.dropped
                ),
            );
        }
        if let Some(cache) = &report.cache {
            let Cached { limit, accepting, dropping, accepted, dropped, .. } = cache;
            let entries = format!("{accepting} verdicts that accept and {dropping} that drop, of at most {limit}");
            self.row("cache", &format!("{entries}; {accepted} packets accepted, {dropped} dropped by them"));
        }
        self.row("held", &format!("{} packets of unknown pods, {} denied", report.held.packets, report.held.denied));
        if let Some(saved) = &report.saved {
            let written = saved
                .written
                .as_deref()
                .map_or_else(|| "not written yet".to_owned(), |at| format!("written {} ago", self.age(at)));
            let problem = saved.problem.as_deref().map_or_else(String::new, |p| format!("; {p}"));
            self.row("saved", &format!("{}, {written}{problem}", saved.path));
        }
    }

    fn divert(&mut self, report: &Report) {
        let Some(divert) = &report.divert else { return self.row("divert", "nothing yet") };
        let ranges = match divert.pod_ranges.as_slice() {
            [] => "only isolated addresses (pod ranges are not known)".to_owned(),
            ranges => ranges.join(" "),
        };
        self.row("divert", &ranges);
        self.row("", &format!("{} addresses isolated, {} open", divert.isolated_addresses, divert.open_addresses));
        let intact = match (divert.owner, divert.intact) {
            (false, _) => "are another agent's",
            (true, true) => "as they should be",
            (true, false) => "NOT as they should be",
        };
        let by = match divert.queue_by {
            QueueBy::NftQueue => "nft_queue",
            QueueBy::Compat => "the compat target",
        };
        let fail = match divert.fail_mode {
            FailMode::Closed => "closed",
            FailMode::Open => "open",
        };
        self.row("", &format!("rules {intact} ({} repairs), queued by {by}, fail {fail}", divert.repairs));
    }

    fn row(&mut self, name: &str, value: &str) {
        self.line(format_args!("{name:<12}{value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// How long ago that was; the time itself if it cannot be read.
    fn age(&self, time: &str) -> String {
        let Ok(then) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
        duration(self.now.duration_since(SystemTime::from(then)).unwrap_or_default())
    }
}

/// `pods, nodes live; networkpolicies failing`: resources by their state.
fn sources(all: &[Source]) -> String {
    let states = [
        (SourceState::Failing, "failing"),
        (SourceState::Listing, "being listed"),
        (SourceState::Restored, "as saved"),
        (SourceState::Live, "live"),
        (SourceState::Absent, "not in this cluster"),
    ];
    let tell = |(state, word): (SourceState, &str)| {
        let of: Vec<_> = all.iter().filter(|s| s.state == state).map(|s| s.resource.as_str()).collect();
        (!of.is_empty()).then(|| format!("{} {word}", of.join(", ")))
    };
    let parts: Vec<String> = states.into_iter().filter_map(tell).collect();
    if parts.is_empty() { "nothing told yet".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Counts, Divert, Held, Over, Overload, Problem, Queue, Saved, Tiers};
    use super::*;

    fn at(seconds: u64) -> String {
        super::super::gather::moment(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn source(resource: &str, state: SourceState) -> Source {
        Source { resource: resource.to_owned(), state, since: None, why: None }
    }

    fn report() -> Report {
        Report {
            ready: true,
            reasons: Vec::new(),
            live: true,
            troubles: Vec::new(),
            node: Some("worker-1".to_owned()),
            version: "0.1.0".to_owned(),
            revision: "abc".to_owned(),
            kernel: "6.18".to_owned(),
            pid: 7,
            started: at(1_000),
            uptime_seconds: 3_700,
            generation: Some(12),
            in_force_since: Some(at(4_640)),
            restored_from: None,
            sources: vec![source("pods", SourceState::Live), source("nodes", SourceState::Live)],
            counts: Counts {
                pods: 30,
                local_pods: 3,
                namespaces: 4,
                nodes: 2,
                rules: 9,
                policies: Tiers { admin: 1, networkpolicy: 5, baseline: 0 },
            },
            divert: Some(Divert {
                pod_ranges: vec!["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()],
                isolated_addresses: 2,
                open_addresses: 4,
                intact: true,
                owner: true,
                repairs: 0,
                queue_by: QueueBy::Compat,
                fail_mode: FailMode::Closed,
            }),
            queues: vec![Queue {
                queue: 9840,
                worker: 0,
                bound: true,
                depth: 1,
                dropped_full: 2,
                dropped_socket: 3,
                accepted: 100,
                dropped: 7,
            }],
            overload: None,
            cache: Some(Cached { limit: 64, accepting: 3, dropping: 2, accepted: 50, dropped: 9, refused: 0 }),
            held: Held { packets: 5, denied: 1 },
            saved: Some(Saved {
                path: "/var/lib/podgate/w".to_owned(),
                written: Some(at(4_690)),
                bytes: 5_000,
                problem: None,
            }),
            problems: Listed { total: 0, first: Vec::new() },
            warnings: Listed { total: 0, first: Vec::new() },
        }
    }

    fn told(report: &Report) -> String {
        text(report, SystemTime::UNIX_EPOCH + Duration::from_secs(4_700))
    }

    #[test]
    fn all_is_well_in_one_line_and_the_facts_follow() {
        let expected = "\
ready: generation 12, in force for 1 min
node        worker-1
agent       podgate 0.1.0 (abc), process 7, up 1 h 1 min, kernel 6.18
sources     pods, nodes live
world       30 pods (3 here), 4 namespaces, 2 nodes
policies    6 (1 admin, 5 networkpolicy, 0 baseline); 9 rules about pods here
divert      10.1.0.0/24 fd00::/64
            2 addresses isolated, 4 open
            rules as they should be (0 repairs), queued by the compat target, fail closed
queue 9840  1 wait, 100 accepted, 7 dropped by verdict, 5 lost
cache       3 verdicts that accept and 2 that drop, of at most 64; 50 packets accepted, 9 dropped by them
held        5 packets of unknown pods, 1 denied
saved       /var/lib/podgate/w, written 10 s ago
";
        assert_eq!(told(&report()), expected);
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let failing = Source {
            since: Some(at(4_600)),
            why: Some("forbidden: give the service account `list`".to_owned()),
            ..source("networkpolicies.networking.k8s.io", SourceState::Failing)
        };
        let over = |namespace: &str, pod: &str, packets| Over {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            packets,
        };
        let problem = Problem {
            place: "a.yaml:3".to_owned(),
            object: Some("NetworkPolicy shop/web".to_owned()),
            message: "endPort is less than port".to_owned(),
        };
        let report = Report {
            ready: false,
            reasons: vec!["the source has not told all it knows yet".to_owned(), "br_netfilter is off".to_owned()],
            live: false,
            troubles: vec!["worker 0 is stuck".to_owned()],
            restored_from: Some(at(4_580)),
            overload: Some(Overload {
                limit: 9_000,
                since: at(4_695),
                pods: Listed { total: 2, first: vec![over("shop", "evil", 81), over("", "", 3)] },
            }),
            sources: vec![source("pods", SourceState::Live), failing],
            problems: Listed { total: 101, first: vec![problem] },
            ..report()
        };
        let expected = "\
not ready: the source has not told all it knows yet
           br_netfilter is off
in force    generation 12, in force for 1 min
overload    for 5 s: each pod may have 9000 packets a second judged
            shop/evil had 81 packets more
            no known pod had 3 packets more
not live    worker 0 is stuck
restored    the world in force is from disk, saved 2 min ago: the source has not told all
failing     networkpolicies.networking.k8s.io not followed for 1 min 40 s: forbidden: give the service account `list`
problems    101
  a.yaml:3 NetworkPolicy shop/web: endPort is less than port
  and 100 more
node        worker-1
";
        let told = told(&report);
        assert!(told.starts_with(expected), "{told}");
        assert!(told.contains("\nsources     networkpolicies.networking.k8s.io failing; pods live\n"), "{told}");
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let json = serde_json::to_string(&report()).unwrap();
        assert!(json.contains("\"queueBy\":\"compat\"") && json.contains("\"inForceSince\":\"1970-01-01T01:17:20Z\""));
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report());
        // A newer agent may tell more.
        let more = json.replacen('{', "{\"weather\":{\"clouds\":1},", 1);
        assert_eq!(serde_json::from_str::<Report>(&more).unwrap(), report());
    }
}
