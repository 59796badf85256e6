//! Follows a cluster and tells what comes: `cargo run --release -p podgate-watch --example follow -- KUBECONFIG`. For
//! looking at a source on a real API server: how long until everything is told, in how many events, and the memory
//! that takes; `RUST_LOG=podgate_watch=debug` tells what goes on below, `PAGES=1` lists in pages. Ends with Ctrl-C.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use podgate_api::Change;
use podgate_watch::Event;
use podgate_watch::kube::{self, Access, Settings};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).init();
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let mut settings = Settings::new(Access::Kubeconfig { file, context: None });
    settings.timing.stream_lists &= std::env::var_os("PAGES").is_none();
    let (sender, mut events) = mpsc::channel(8);
    let start = Instant::now();
    let following = tokio::spawn(kube::follow(settings, sender));
    let (mut synced, mut told, mut counts) = (false, 0, BTreeMap::new());
    while let Some(event) = events.recv().await {
        let at = start.elapsed();
        match event {
            Event::Changes { changes, noticed } => {
                told += 1;
                if synced {
                    println!("{at:?}: {} changes, noticed {:?} ago", changes.len(), noticed.elapsed());
                }
                for change in changes {
                    let (Change::Apply(object), false) = (change, synced) else { continue };
                    *counts.entry(object.key().kind).or_insert(0) += 1;
                }
            }
            Event::Synced => {
                synced = true;
                println!("{at:?}: synced, {told} events: {counts:?}; {}", memory());
            }
            Event::Retold { world, .. } => println!("{at:?}: told again, for world {world}"),
            Event::Problems(problems) => println!("{at:?}: {problems:#?}"),
            Event::Freshness(all) => println!("{at:?}: {all:?}"),
        }
    }
    if let Ok(Err(error)) = following.await {
        eprintln!("{error}");
    }
}

/// Resident memory now and at its peak.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect::<Vec<_>>().join(", ")
}
