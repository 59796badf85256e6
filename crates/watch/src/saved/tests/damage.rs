//! Files that end anywhere, have wrong bits, or belong to somebody else.

use std::fs;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use podgate_api::Change;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::frame::{self, Header, Role};
use super::super::{FORMAT_VERSION, Settings};
use super::{Model, apply, delete, load, load_sound, model, settings, settle, start, take, wait, world, write};

/// A directory with a snapshot and a journal of four batches, and the world after each.
fn small(directory: &Path) -> (Settings, Vec<Model>) {
    let batches = [
        vec![apply("a", 0), apply("b", 0), apply("c", 0)],
        vec![apply("a", 1)],
        vec![delete("b"), apply("d", 2)],
        vec![apply("b", 3), delete("a")],
        vec![delete("d")],
    ];
    let settings = settings(directory);
    write(&settings, &batches);
    let mut worlds = vec![Model::new()];
    for batch in &batches {
        let mut world = worlds.last().unwrap().clone();
        take(&mut world, batch);
        worlds.push(world);
    }
    worlds.remove(0);
    assert_eq!(load_sound(&settings), *worlds.last().unwrap());
    (settings, worlds)
}

#[test]
fn a_journal_that_ends_anywhere_tells_the_world_after_its_last_whole_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, worlds) = small(directory.path());
    let journal = directory.path().join("journal");
    let whole = fs::read(&journal).unwrap();
    let mut seen = 0;
    let mut clean = 0;
    for length in 0..=whole.len() {
        fs::write(&journal, &whole[..length]).unwrap();
        let loaded = load(&settings);
        let world = world(&loaded).expect("at least the snapshot");
        let now = worlds.iter().position(|w| *w == world).unwrap_or_else(|| panic!("no such world: {length}"));
        assert!(now >= seen, "more of the journal tells a later world: {length}");
        clean += usize::from(loaded.problems.is_empty());
        seen = now;
    }
    assert_eq!(seen, worlds.len() - 1);
    // Where a batch ends nothing can be seen to be missing: after the header, and after each batch in the journal.
    assert_eq!(clean, worlds.len());
}

#[test]
fn a_snapshot_that_is_cut_short_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, _) = small(directory.path());
    let snapshot = directory.path().join("snapshot");
    let whole = fs::read(&snapshot).unwrap();
    for length in 0..whole.len() {
        fs::write(&snapshot, &whole[..length]).unwrap();
        let loaded = load(&settings);
        assert!(loaded.world.is_none() && loaded.problems.len() == 1, "{length}: {loaded:?}");
    }
}

#[test]
fn a_wrong_bit_anywhere_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, worlds) = small(directory.path());
    for name in ["snapshot", "journal"] {
        let path = directory.path().join(name);
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[place / 8] ^= 1 << (place % 8);
            fs::write(&path, &bytes).unwrap();
            let loaded = load(&settings);
            assert!(!loaded.problems.is_empty(), "{name}, bit {place}");
            match world(&loaded) {
                Some(world) => {
                    assert_eq!(name, "journal", "bit {place}");
                    assert!(worlds.contains(&world), "{name}, bit {place}: a world that never was");
                }
                None => assert_eq!(name, "snapshot", "bit {place}"),
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn what_follows_damage_is_not_used_and_the_next_world_is_whole_again() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, worlds) = small(directory.path());
    let journal = directory.path().join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    // As a file system leaves it that made room for data, which then was not written: zeros.
    let end = bytes.len();
    bytes[end - 20..].fill(0);
    bytes.extend([0; 4096]);
    fs::write(&journal, &bytes).unwrap();
    let loaded = load(&settings);
    assert_eq!(world(&loaded).unwrap(), worlds[worlds.len() - 2]);

    let recorder = start(&settings);
    recorder.record(&[apply("e", 9)]);
    recorder.synced();
    settle(&recorder);
    assert!(recorder.stop());
    let mut expected = worlds[worlds.len() - 2].clone();
    take(&mut expected, &[apply("e", 9)]);
    assert_eq!(load_sound(&settings), expected);
}

#[test]
fn a_world_of_another_cluster_is_not_used_but_stays_until_there_is_one_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let (theirs, worlds) = small(directory.path());
    let ours = Settings { identity: "another/node".to_owned(), ..theirs.clone() };
    let loaded = load(&ours);
    assert!(loaded.world.is_none());
    assert!(loaded.problems[0].contains("belongs to 'cluster/node'"), "{:?}", loaded.problems);

    let recorder = start(&ours);
    recorder.record(&[apply("ours", 1)]);
    super::wait(&recorder, |s| s.waiting_bytes == 0);
    assert_eq!(load_sound(&theirs), *worlds.last().unwrap());
    recorder.synced();
    settle(&recorder);
    assert_eq!(load_sound(&ours), model(&[apply("ours", 1)]));
    assert!(recorder.stop());
}

#[test]
fn files_of_another_version_or_of_nobody_are_told_and_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, _) = small(directory.path());
    let snapshot = directory.path().join("snapshot");
    let whole = fs::read(&snapshot).unwrap();

    let mut bytes = whole.clone();
    bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    fs::write(&snapshot, &bytes).unwrap();
    let loaded = load(&settings);
    assert!(loaded.world.is_none() && loaded.problems[0].contains("format version"), "{loaded:?}");

    fs::write(&snapshot, "apiVersion: v1\nkind: Pod\n").unwrap();
    let loaded = load(&settings);
    assert!(loaded.world.is_none() && loaded.problems[0].contains("not a file of podgate's"), "{loaded:?}");

    fs::copy(directory.path().join("journal"), &snapshot).unwrap();
    let loaded = load(&settings);
    assert!(loaded.world.is_none() && loaded.problems[0].contains("not what its name says"), "{loaded:?}");

    fs::remove_file(&snapshot).unwrap();
    fs::create_dir(&snapshot).unwrap();
    assert!(load(&settings).world.is_none());
}

#[test]
fn no_directory_and_no_files_are_no_problem() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("not-there")] {
        let loaded = load(&settings(&path));
        assert!(loaded.world.is_none() && loaded.problems.is_empty());
    }
}

/// Checksums that are right say nothing of who wrote the file.
fn load_forged(snapshot: &[u8], journal: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    for (name, role, records) in [("snapshot", Role::Snapshot, snapshot), ("journal", Role::Journal, journal)] {
        let header = Header { role, generation: 1, identity: settings.identity.clone() };
        let mut bytes = frame::prologue(&header).unwrap();
        frame::push(&mut bytes, records, true, std::time::SystemTime::now()).unwrap();
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let world = load(&settings).world.expect("sound frames");
    let _ = world.changes();
}

proptest! {
    #[test]
    fn sound_frames_of_any_records_are_an_error_or_a_world_but_never_a_panic(
        snapshot in vec(any::<u8>(), 0..200), journal in vec(any::<u8>(), 0..200),
    ) {
        load_forged(&snapshot, &journal);
    }

    #[test]
    fn files_of_any_bytes_are_a_problem_but_never_a_panic(
        snapshot in vec(any::<u8>(), 1..300), journal in vec(any::<u8>(), 0..300), begins_well: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut snapshot = snapshot;
        if begins_well {
            let mut bytes = b"podgate\0".to_vec();
            bytes.extend(FORMAT_VERSION.to_le_bytes());
            bytes.append(&mut snapshot);
            snapshot = bytes;
        }
        fs::write(directory.path().join("snapshot"), &snapshot).unwrap();
        fs::write(directory.path().join("journal"), &journal).unwrap();
        let loaded = load(&settings(directory.path()));
        prop_assert!(loaded.world.is_none() && !loaded.problems.is_empty());
    }
}

/// What a crash between two steps of replacing the files leaves.
#[test]
fn a_crash_at_any_step_of_replacing_the_files_leaves_a_world() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let settings = settings(directory.path());
    let mut changes: Vec<Change> = vec![apply("a", 0), apply("b", 0)];
    write(&settings, &[changes.clone(), vec![delete("a"), apply("c", 1)]]);
    changes.extend([delete("a"), apply("c", 1)]);
    let before = model(&changes);
    let (snapshot, journal) = (fs::read(path("snapshot")).unwrap(), fs::read(path("journal")).unwrap());
    // The same world again, a generation later.
    write(&settings, &[vec![apply("d", 2)]]);
    changes.push(apply("d", 2));
    let after = model(&changes);
    let (new_snapshot, new_journal) = (fs::read(path("snapshot")).unwrap(), fs::read(path("journal")).unwrap());

    // While the new ones are being written.
    fs::write(path("snapshot"), &snapshot).unwrap();
    fs::write(path("journal"), &journal).unwrap();
    fs::write(path("snapshot.new"), &new_snapshot[..new_snapshot.len() / 2]).unwrap();
    fs::write(path("journal.new"), &new_journal[..5]).unwrap();
    assert_eq!(load_sound(&settings), before);
    // Between the two renames: the old journal is in the new snapshot already.
    fs::write(path("snapshot"), &new_snapshot).unwrap();
    assert_eq!(load_sound(&settings), after);
    // And it is not in the way of what comes then.
    write(&settings, &[vec![delete("d")], vec![apply("e", 3)]]);
    changes.extend([delete("d"), apply("e", 3)]);
    assert_eq!(load_sound(&settings), model(&changes));

    // What no crash leaves, but a bad restore from a backup does.
    fs::write(path("snapshot"), &snapshot).unwrap();
    fs::write(path("journal"), &new_journal).unwrap();
    let loaded = load(&settings);
    assert!(loaded.problems[0].contains("newer than"), "{:?}", loaded.problems);
    assert_eq!(world(&loaded).unwrap(), model(&changes[..2]));
    fs::remove_file(path("journal")).unwrap();
    let loaded = load(&settings);
    assert_eq!(loaded.problems.len(), 1);
    assert_eq!(world(&loaded).unwrap(), model(&changes[..2]));
}

#[test]
fn what_is_no_file_is_not_waited_for_but_told_and_replaced() {
    for name in ["snapshot", "journal", "lock", "snapshot.new"] {
        for is_link in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let (settings, worlds) = small(directory.path());
            let path = directory.path().join(name);
            if is_link {
                // Where it leads may be anybody's.
                let elsewhere = directory.path().join("elsewhere");
                let _ = fs::rename(&path, &elsewhere);
                std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            } else {
                let _ = fs::remove_file(&path);
                mkfifo(&path, Mode::S_IRWXU).unwrap();
            }
            let loaded = load(&settings);
            let is_read = matches!(name, "snapshot" | "journal");
            assert_eq!(loaded.problems.len(), usize::from(is_read), "{name}: {loaded:?}");
            let there = world(&loaded);
            match name {
                "snapshot" => assert!(there.is_none()),
                "journal" => assert_eq!(there, Some(worlds[0].clone())),
                _ => assert_eq!(there, worlds.last().cloned()),
            }
            let recorder = start(&settings);
            let mut expected = there.unwrap_or_default();
            take(&mut expected, &[apply("new", 1)]);
            recorder.record(&[apply("new", 1)]);
            recorder.synced();
            if name == "lock" {
                wait(&recorder, |s| s.error.as_ref().is_some_and(|e| e.contains("lock")));
                fs::remove_file(&path).unwrap();
            }
            settle(&recorder);
            assert!(recorder.stop());
            assert_eq!(load_sound(&settings), expected, "{name}");
        }
    }
}

#[test]
fn a_length_that_nobody_wrote_is_not_allocated() {
    let directory = tempfile::tempdir().unwrap();
    let (settings, _) = small(directory.path());
    let snapshot = directory.path().join("snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    // The first frame of records says that it is 1 GiB long, and the file, which is sparse, is that long.
    let header = 12 + 8 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[header..header + 4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    fs::write(&snapshot, &bytes).unwrap();
    fs::OpenOptions::new().write(true).open(&snapshot).unwrap().set_len(1 << 40).unwrap();
    let most = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
        line.parse::<usize>().unwrap() >> 10
    };
    let before = most();
    let loaded = load(&settings);
    assert!(loaded.world.is_none() && loaded.problems[0].contains("damaged"), "{loaded:?}");
    assert!(most() < before + 512, "{before} MiB before, {} MiB at most", most());
}
