//! What is known of the process and its machine: build, kernel, memory, processor time. All of it read at scrape from
//! `/proc/self` (proc(5)); a figure that cannot be read is left out rather than told as 0.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, describe};

/// The version of this build.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The source revision of this build; builds say it by `PODGATE_REVISION` in the environment.
pub(crate) const REVISION: &str = match option_env!("PODGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Linux tells processor time in hundredths of a second, whatever the kernel's own tick is (`USER_HZ`, time(7)).
const TICKS_PER_SECOND: f64 = 100.0;
/// `resident` in `/proc/self/statm` is in pages; asked of the kernel once would need libc, so `status` is read instead.
const RESIDENT: &str = "VmRSS:";

/// Collects the process's figures.
pub(crate) struct Process {
    started: f64,
    kernel: String,
    descriptions: Vec<Desc>,
}

const BUILD: (&str, &str) = ("podgate_build_info", "The build that runs and the kernel under it; always 1.");
const START: (&str, &str) = ("podgate_start_time_seconds", "When the agent started, in seconds since 1970.");
const MEMORY: (&str, &str) = ("process_resident_memory_bytes", "Resident memory.");
const PROCESSOR: (&str, &str) = ("process_cpu_seconds_total", "Processor time used, user and system.");
const FILES: (&str, &str) = ("process_open_fds", "Open file descriptors.");

impl Process {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let kernel = kernel();
        let descriptions = describe(&[BUILD, START, MEMORY, PROCESSOR, FILES]);
        Self { started, kernel, descriptions }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut build = Family::new(BUILD, MetricType::GAUGE);
        build.push(&[("version", VERSION), ("revision", REVISION), ("kernel", &self.kernel)], 1.0);
        let single = |name, kind, value: Option<f64>| {
            let mut family = Family::new(name, kind);
            if let Some(value) = value {
                family.push(&[], value);
            }
            family.finish()
        };
        vec![
            build.finish(),
            single(START, MetricType::GAUGE, Some(self.started)),
            single(MEMORY, MetricType::GAUGE, resident_bytes()),
            single(PROCESSOR, MetricType::COUNTER, processor_seconds()),
            single(FILES, MetricType::GAUGE, fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64)),
        ]
    }
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(RESIDENT))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, in brackets, may hold anything; the fields are counted from behind it (proc(5): 14 and 15).
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_processor_time() {
        assert!(resident_bytes().unwrap() > 100_000.0);
        assert!(processor_seconds().unwrap() >= 0.0);
    }
}
