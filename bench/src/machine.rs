//! What the figures were measured on, read from `/proc`.

use std::fs;

/// Processor, cores, memory and kernel in one line.
pub fn describe() -> String {
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").and_then(|m| m.split(' ').next()?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = memory.map_or_else(|| "?".to_owned(), |kib| (kib / 1024 / 1024).to_string());
    format!("{processor}, {cores} cores, {memory} GiB, Linux {}", kernel.trim())
}

/// How many tasks ran or wanted to, in the mean of the last minute: other work than what is measured, if asked before.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

/// Resident memory of this process now, and the most it was, in bytes.
pub fn resident() -> (u64, u64) {
    let bytes = |name| {
        let text = field("/proc/self/status", name).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (bytes("VmRSS"), bytes("VmHWM"))
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().filter_map(|l| l.split_once(':')).find(|(n, _)| n.trim() == name)?;
    Some(value.trim().to_owned())
}
