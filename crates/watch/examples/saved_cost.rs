//! What the saved world costs at 100,000 pods (or as many as the argument says): time to record, to write, to load; bytes
//! on disk; memory.
//!
//! `cargo run --release -p podgate-watch --example saved_cost [PODS]`
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]

use std::fs;
use std::time::{Duration, Instant};

use podgate_api::{Change, ContainerPort, Labels, Object, Pod, Protocol};
use podgate_watch::saved::{Recorder, Settings, load};

/// As the source tells them, some together.
const BATCH: usize = 100;

fn pod(n: usize) -> Change {
    let label = |key: &str, value: String| (key.to_owned(), value);
    Change::Apply(Object::Pod(Pod {
        namespace: format!("namespace-{}", n % 500),
        name: format!("service-{}-7d4b9c6f5d-x{n:05}", n % 2000),
        uid: Some(format!("{:08x}-5a1c-4f0e-9c3b-{n:012x}", n * 7919)),
        labels: Labels::from([
            label("app.kubernetes.io/name", format!("service-{}", n % 2000)),
            label("app.kubernetes.io/component", "server".to_owned()),
            label("pod-template-hash", "7d4b9c6f5d".to_owned()),
        ]),
        created: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        node: Some(format!("node-{}", n % 1000)),
        addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + n as u32).into()],
        host_addresses: vec![std::net::Ipv4Addr::from(0xc0a8_0000 + (n % 1000) as u32).into()],
        ports: vec![ContainerPort { name: "http".to_owned(), protocol: Protocol::Tcp, number: 8080 }],
        ..Pod::default()
    }))
}

/// Resident memory now and at most so far, KiB.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn step(name: &str, since: Instant) {
    let (now, most) = memory();
    println!(
        "{name:<44} {:>8.1} ms   resident {:>6.1} MiB, most {:>6.1} MiB",
        since.elapsed().as_secs_f64() * 1e3,
        now as f64 / 1024.0,
        most as f64 / 1024.0
    );
}

fn main() {
    let pods: usize = std::env::args().nth(1).map_or(100_000, |n| n.parse().expect("a number of pods"));
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::new(directory.path(), "cluster/node");
    let minute = Duration::from_secs(60);
    println!("{pods} pods");
    step("nothing yet", Instant::now());

    let recorder = Recorder::start(&settings, &load(&settings)).unwrap();
    let (began, mut recording, mut slowest) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    for first in (0..pods).step_by(BATCH) {
        let batch: Vec<Change> = (first..(first + BATCH).min(pods)).map(pod).collect();
        let now = Instant::now();
        recorder.record(&batch);
        recording += now.elapsed();
        slowest = slowest.max(now.elapsed());
    }
    step("first list, recorded (with making the pods)", began);
    println!("  of it in record(): {recording:.1?}, slowest call {slowest:.1?}");
    let began = Instant::now();
    recorder.synced();
    assert!(recorder.wait_until(minute, |s| s.saving && s.waiting_bytes == 0));
    step("snapshot written and durable", began);
    println!(
        "  {:.1} MB on disk, {} bytes a pod",
        recorder.status().bytes as f64 / 1e6,
        recorder.status().bytes / pods as u64
    );

    let began = Instant::now();
    let bytes = recorder.status().bytes;
    let mut n = 0;
    while recorder.status().compactions == 0 {
        recorder.record(&[pod(n % pods)]);
        n += 1;
        // As fast as the disk, not faster: else it is the queue that is measured.
        if n % BATCH == 0 {
            recorder.wait_until(minute, |s| s.waiting_bytes == 0);
        }
    }
    step("changes until the journal was taken in", began);
    println!("  {n} changes, {:.1} MB before", bytes as f64 / 1e6);
    assert!(recorder.stop());

    let began = Instant::now();
    let loaded = load(&settings);
    step("loaded: checksums", began);
    let mut count = 0;
    loaded.world.unwrap().read(|_| count += 1).unwrap();
    step("loaded: each object decoded", began);
    assert_eq!(count, pods);
}
