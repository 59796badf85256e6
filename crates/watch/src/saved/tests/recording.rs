//! What is recorded is what is loaded, however it is cut into batches, compacted, or interrupted.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use podgate_api::Change;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Settings;
use super::{Model, apply, delete, load, load_sound, model, settings, settle, start, take, wait, write};

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_world_is_loaded_as_it_was_recorded(
        lives in vec(vec(vec((0..12u8, option_label()), 0..5), 1..8), 1..4), journal in 50..600u64,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { journal, ..settings(directory.path()) };
        let mut expected = Model::new();
        for (life, batches) in lives.iter().enumerate() {
            let recorder = start(&settings);
            for (number, batch) in batches.iter().enumerate() {
                let batch: Vec<Change> = batch.iter().map(|(name, label)| match label {
                    Some(label) => apply(name, label),
                    None => delete(name),
                }).collect();
                recorder.record(&batch);
                take(&mut expected, &batch);
                if number == 1 || batches.len() == 1 {
                    recorder.synced();
                }
                if number % 3 == life {
                    wait(&recorder, |s| s.waiting_bytes == 0);
                }
            }
            // A process that another test is just starting has the lock of the life before for a moment more.
            wait(&recorder, |s| s.saving);
            prop_assert!(recorder.stop());
            prop_assert_eq!(&load_sound(&settings), &expected);
        }
    }
}

fn option_label() -> impl Strategy<Value = Option<u8>> {
    proptest::option::weighted(0.7, any::<u8>())
}

#[test]
fn half_a_world_is_never_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let recorder = start(&settings);
    recorder.record(&[apply("a", 1)]);
    wait(&recorder, |s| s.waiting_bytes == 0);
    assert!(load(&settings).world.is_none());
    assert!(!recorder.status().saving);
    // Ended before the source had told all: nothing is there, and nothing is left behind.
    assert!(!recorder.stop());
    assert!(load(&settings).world.is_none());

    // The same with a world of before: it stays as it was, without what only some of the lists told.
    write(&settings, &[vec![apply("old", 1)]]);
    let recorder = start(&settings);
    recorder.record(&[apply("new", 2)]);
    wait(&recorder, |s| s.waiting_bytes == 0);
    assert_eq!(load_sound(&settings), model(&[apply("old", 1)]));
    drop(recorder);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| n == "snapshot" || n == "journal" || n == "lock"), "{names:?}");
}

#[test]
fn the_journal_is_taken_into_the_snapshot_while_changes_come() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { journal: 4096, ..settings(directory.path()) };
    let recorder = start(&settings);
    recorder.synced();
    let mut expected = Model::new();
    std::thread::scope(|scope| {
        let sides: Vec<_> = (0..2)
            .map(|side| {
                let recorder = &recorder;
                scope.spawn(move || {
                    let mut expected = Model::new();
                    for i in 0..3000 {
                        let name = format!("{side}-{}", i % 50);
                        let batch = if i % 7 == 0 {
                            vec![delete(&name)]
                        } else {
                            vec![apply(&name, i), apply(format!("{name}x"), i)]
                        };
                        recorder.record(&batch);
                        take(&mut expected, &batch);
                        if i % 100 == 0 {
                            wait(recorder, |s| s.waiting_bytes == 0);
                        }
                    }
                    expected
                })
            })
            .collect();
        for side in sides {
            expected.extend(side.join().unwrap());
        }
    });
    settle(&recorder);
    let status = recorder.status();
    assert!(status.compactions > 2, "{status:?}");
    assert!(recorder.stop());
    assert_eq!(load_sound(&settings), expected);
    let size = |name| fs::metadata(directory.path().join(name)).unwrap().len();
    assert!(size("journal") < 64 << 10, "bounded: {}", size("journal"));
}

#[test]
fn changes_before_the_first_whole_world_take_no_more_room_than_the_world() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { journal: 512, ..settings(directory.path()) };
    write(&settings, &[vec![apply("old", 1), apply("gone", 1)]]);
    let recorder = start(&settings);
    let mut expected = model(&[apply("old", 1)]);
    recorder.record(&[delete("gone")]);
    for i in 0..2000 {
        let batch = [apply(i % 10, i)];
        recorder.record(&batch);
        take(&mut expected, &batch);
        if i % 20 == 0 {
            wait(&recorder, |s| s.waiting_bytes == 0);
        }
    }
    recorder.synced();
    assert!(recorder.stop());
    assert_eq!(load_sound(&settings), expected);
}

#[test]
fn a_batch_of_many_frames_is_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { journal: 1 << 30, ..settings(directory.path()) };
    let many: Vec<_> = (0..5000).map(|i| apply(i, "x".repeat(100))).collect();
    write(&settings, &[vec![apply("first", 0)], many.clone()]);
    let journal = directory.path().join("journal");
    let whole = fs::read(&journal).unwrap();
    assert!(whole.len() > 3 * super::super::frame::FRAME_BYTES);
    let mut expected = model(&[apply("first", 0)]);
    take(&mut expected, &many);
    assert_eq!(load_sound(&settings), expected);
    // Without its last byte none of it is there.
    fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(super::world(&load(&settings)).unwrap(), model(&[apply("first", 0)]));
}

#[test]
fn nobody_else_may_read_or_write_what_is_saved() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).unwrap();
    write(&settings(&inner), &[vec![apply("a", 1)]]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    for name in ["snapshot", "journal", "lock"] {
        assert_eq!(mode(&inner.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_journal_that_somebody_removed_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let recorder = start(&settings);
    recorder.record(&[apply("a", 1)]);
    recorder.synced();
    settle(&recorder);
    let generation = recorder.status().bytes;
    assert!(generation > 0);
    fs::remove_dir_all(directory.path()).unwrap();
    recorder.record(&[apply("b", 2)]);
    wait(&recorder, |s| s.error.is_some());
    settle(&recorder);
    assert_eq!(load_sound(&settings), model(&[apply("a", 1), apply("b", 2)]));
    assert!(recorder.stop());
    fs::create_dir_all(directory.path()).unwrap();
}
