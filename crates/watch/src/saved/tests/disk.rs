//! Disks that are full, read-only or gone: told, waited out within bounded memory, and recovered from.
//!
//! Each test has a small file system of its own, in a mount namespace that ends with its threads.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};

use super::super::{Recorder, Settings};
use super::{Model, apply, delete, load_sound, model, settings, settle, start, take, wait, write};

/// Runs the test with an empty file system of that many KiB.
fn on_small_disk(kib: u32, test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let none = None::<&str>;
    std::thread::scope(|scope| {
        let in_namespace = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root is needed for a file system of one's own");
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(none, path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={kib}k").as_str())).unwrap();
            test(path);
        });
        if let Err(panic) = in_namespace.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn remount(path: &Path, flags: MsFlags) {
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
}

/// Leaves no room on the disk.
fn fill(path: &Path) -> std::path::PathBuf {
    let file = path.join("other");
    // Cut short by the lack of room.
    let _ = fs::write(&file, vec![1; 1 << 20]);
    assert!(fs::write(path.join("more"), vec![1; 5000]).is_err());
    fs::remove_file(path.join("more")).unwrap();
    fill_rest(&file);
    file
}

/// Takes the last page, in which there may be room for some bytes yet.
fn fill_rest(file: &Path) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
    while file.write(&[1; 64]).is_ok() {}
}

#[test]
fn a_full_disk_is_told_and_what_waits_is_written_when_there_is_room() {
    on_small_disk(256, |path| {
        let settings = settings(&path.join("state"));
        let first = [apply("a", 0), apply("b", 0)];
        let recorder = start(&settings);
        recorder.record(&first);
        recorder.synced();
        settle(&recorder);
        let other = fill(path);

        let mut expected = model(&first);
        for i in 0..2000 {
            let batch = [apply(i % 100, i), apply("a", i)];
            recorder.record(&batch);
            take(&mut expected, &batch);
        }
        wait(&recorder, |s| s.error.as_ref().is_some_and(|e| e.contains("No space left")));
        // A true world of before: whatever of the batches had room.
        let before = load_sound(&settings);
        assert!(before.contains_key(&super::pod("b", 0).key()));
        let status = recorder.status();
        assert!(status.waiting_bytes > 0 && !status.wants_world, "{status:?}");

        fs::remove_file(other).unwrap();
        settle(&recorder);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), expected);
    });
}

#[test]
fn a_disk_that_is_full_from_the_start_is_no_different() {
    on_small_disk(256, |path| {
        let settings = settings(&path.join("state"));
        let other = fill(path);
        let recorder = start(&settings);
        let changes = [apply("a", 0), apply("b", 0)];
        recorder.record(&changes);
        recorder.synced();
        wait(&recorder, |s| s.error.is_some());
        fs::remove_file(other).unwrap();
        settle(&recorder);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), model(&changes));
    });
}

#[test]
fn no_room_for_a_new_snapshot_leaves_the_old_files_in_force() {
    on_small_disk(256, |path| {
        let settings = Settings { journal: 40 << 10, ..settings(&path.join("state")) };
        let big: Vec<_> = (0..200).map(|i| apply(i, "x".repeat(300))).collect();
        write(&settings, std::slice::from_ref(&big));
        let mut expected = model(&big);
        let recorder = start(&settings);
        recorder.synced();
        settle(&recorder);
        fs::write(path.join("other"), vec![1; 100 << 10]).unwrap();
        // No more than what is written at once waits: else that could take all the room that there is at last.
        for i in 0.. {
            let batch = [apply(i % 200, format!("{i}{}", "y".repeat(100)))];
            recorder.record(&batch);
            take(&mut expected, &batch);
            wait(&recorder, |s| s.error.is_some() || s.waiting_bytes == 0);
            if recorder.status().error.is_some() {
                break;
            }
        }
        load_sound(&settings);
        fs::remove_file(path.join("other")).unwrap();
        settle(&recorder);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), expected);
    });
}

/// A recorder that had more to keep than it may, on a disk without room, and what takes that.
fn overflown(path: &Path, settings: &Settings) -> (Recorder, std::path::PathBuf) {
    let recorder = start(settings);
    recorder.record(&[apply("a", 0), apply("gone", 0), apply("broken", 0)]);
    recorder.synced();
    settle(&recorder);
    let other = fill(path);
    // Much, but of few objects: only the last state of each has to wait.
    for i in 0..5000 {
        recorder.record(&[apply(i % 20, i)]);
        assert!(recorder.status().waiting_bytes <= settings.memory);
    }
    assert!(!recorder.status().wants_world);
    // More objects than there is memory for.
    for i in 0..5000 {
        recorder.record(&[apply(i, i)]);
        assert!(recorder.status().waiting_bytes <= settings.memory);
    }
    let status = recorder.status();
    assert!(status.wants_world && status.outdated && status.lost_changes > 4000, "{status:?}");
    (recorder, other)
}

#[test]
fn a_world_that_was_lost_is_asked_for_anew_as_soon_as_there_is_room() {
    on_small_disk(256, |path| {
        let settings = Settings { memory: 16 << 10, ..settings(&path.join("state")) };
        let (recorder, other) = overflown(path, &settings);
        let wanted = recorder.wanted();
        wait(&recorder, |s| s.error.as_ref().is_some_and(|e| e.contains("No space left")));
        assert_eq!(*wanted.borrow(), 0, "there is no room yet");
        fs::remove_file(other).unwrap();
        wait(&recorder, |s| !s.wants_world && s.error.is_none());
        assert_eq!(*wanted.borrow(), 1);

        // What is there is still a world, and half a one of the new does not take its place.
        recorder.record(&[apply("a", 7), apply("late", 7)]);
        recorder.synced();
        recorder.retold(0, &[]);
        wait(&recorder, |s| s.waiting_bytes == 0);
        let status = recorder.status();
        assert!(status.outdated && !status.saving, "{status:?}");
        let there = load_sound(&settings);
        assert!(there.contains_key(&super::pod("gone", 0).key()));
        assert!(!there.contains_key(&super::pod("late", 1).key()));

        // One that can't be read now stays as it was.
        // A policy that nobody has a good state of is closed.
        let policy = ObjectKey { kind: Kind::NetworkPolicy, ..super::pod("policy", 0).key() };
        recorder.retold(1, &[super::pod("broken", 0).key(), super::pod("late", 0).key(), policy.clone()]);
        settle(&recorder);
        assert!(!recorder.status().outdated);
        let closed = Change::Apply(Object::Policy(PolicySpec::closed(policy)));
        let mut told = model(&[apply("a", 7), apply("late", 7), apply("broken", 0), closed]);
        assert_eq!(load_sound(&settings), told);
        let later = [apply("later", 8), delete("a")];
        recorder.record(&later);
        take(&mut told, &later);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), told);
    });
}

#[test]
fn what_is_lost_again_while_a_world_is_told_anew_is_no_world() {
    on_small_disk(256, |path| {
        let settings = Settings { memory: 16 << 10, ..settings(&path.join("state")) };
        let (recorder, other) = overflown(path, &settings);
        let mut wanted = recorder.wanted();
        fs::remove_file(&other).unwrap();
        wait(&recorder, |s| !s.wants_world && s.error.is_none());
        let other = fill(path);
        for i in 0..20_000 {
            recorder.record(&[apply(i, "x".repeat(50))]);
        }
        assert!(recorder.status().wants_world);
        recorder.retold(1, &[]);
        fs::remove_file(other).unwrap();
        wait(&recorder, |s| !s.wants_world && s.error.is_none());
        assert_eq!(*wanted.borrow_and_update(), 2);
        recorder.record(&[apply("new", 1)]);
        recorder.retold(1, &[]);
        wait(&recorder, |s| s.waiting_bytes == 0);
        assert!(load_sound(&settings).contains_key(&super::pod("gone", 0).key()), "still the world of before");
        recorder.retold(2, &[super::pod("broken", 0).key()]);
        settle(&recorder);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), model(&[apply("new", 1), apply("broken", 0)]));
    });
}

#[test]
fn a_read_only_disk_is_told_and_its_world_is_loaded_all_the_same() {
    on_small_disk(256, |path| {
        let settings = settings(&path.join("state"));
        let mut expected = Model::new();
        take(&mut expected, &[apply("a", 1)]);
        write(&settings, &[vec![apply("a", 1)]]);
        remount(path, MsFlags::MS_RDONLY);
        assert_eq!(load_sound(&settings), expected);
        let recorder = start(&settings);
        recorder.record(&[apply("b", 2)]);
        recorder.synced();
        wait(&recorder, |s| s.error.as_ref().is_some_and(|e| e.contains("Read-only")));
        remount(path, MsFlags::empty());
        settle(&recorder);
        take(&mut expected, &[apply("b", 2)]);
        assert!(recorder.stop());
        assert_eq!(load_sound(&settings), expected);
    });
}

#[test]
fn a_directory_that_cannot_be_made_is_told_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let settings = settings(&file.join("state"));
    let recorder = start(&settings);
    recorder.record(&[apply("a", 1)]);
    let name = settings.directory.display().to_string();
    wait(&recorder, |s| s.error.as_ref().is_some_and(|e| e.contains(&name) && e.contains("state directory")));
    assert!(!recorder.stop());
}
