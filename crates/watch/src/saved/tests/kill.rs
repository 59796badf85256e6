//! A real process that writes, ended in the middle of it by SIGKILL.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use podgate_api::{Change, Object};

use super::super::Settings;
use super::{Model, apply, load, settings, settle, start, world};

/// Where the child process is to write; the test below is nothing without it.
const DIRECTORY: &str = "PODGATE_TEST_SAVED_DIRECTORY";
const PODS: usize = 40;
const KILLS: usize = 20;

/// Compacts every few batches, so that many a kill meets it.
fn small_journal(directory: &std::path::Path) -> Settings {
    Settings { journal: 8 << 10, ..settings(directory) }
}

/// In the child: writes the same pods again and again, all with the number of their batch, and tells each number when
/// it is written. Ends with its parent's pipe at the latest.
#[test]
fn child_that_writes() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let recorder = start(&small_journal(directory.as_ref()));
    recorder.synced();
    for number in 0.. {
        let batch: Vec<Change> = (0..PODS).map(|name| apply(name, number)).collect();
        recorder.record(&batch);
        settle(&recorder);
        // `println` would be captured by the test harness, or panic; a closed pipe is just the end.
        if std::io::Write::write_all(&mut std::io::stdout(), format!("written {number}\n").as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn what_was_written_before_a_kill_is_loaded_after_it() {
    let directory = tempfile::tempdir().unwrap();
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "saved::tests::kill::child_that_writes", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after some batches, more each time, so that it happens at any point between two compactions.
        let told = lines.filter_map(|l| l.unwrap().split("written ").nth(1)?.parse::<usize>().ok()).nth(kill * 3);
        child.kill().unwrap();
        child.wait().unwrap();

        // The kernel may have cut the last write short: told as a problem, and no loss.
        let world: Model = world(&load(&small_journal(directory.path()))).expect("a world");
        assert_eq!(world.len(), PODS);
        let numbers: BTreeSet<usize> = world.values().map(number).collect();
        assert_eq!(numbers.len(), 1, "one batch or another, no mixture: {numbers:?}");
        assert!(numbers.first() >= told.as_ref(), "{numbers:?}, but {told:?} was written");
    }
}

fn number(object: &Object) -> usize {
    match object {
        Object::Pod(pod) => pod.labels["batch"].parse().unwrap(),
        other => panic!("{other:?}"),
    }
}
