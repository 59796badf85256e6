//! Two agents on one node, while one replaces the other: only one writes, and what it writes is its own.

use super::{apply, delete, load_sound, model, settings, settle, start, wait, write};

#[test]
fn the_new_one_takes_over_when_the_old_one_ends() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let old = start(&settings);
    old.record(&[apply("a", 1), apply("b", 1)]);
    old.synced();
    settle(&old);

    let new = start(&settings);
    new.record(&[apply("a", 2), delete("b"), apply("c", 2)]);
    new.synced();
    wait(&new, |s| s.held_by_other && s.waiting_bytes == 0);
    // What it has written meanwhile is nowhere to be seen, and the old one goes on.
    old.record(&[apply("d", 1)]);
    settle(&old);
    assert_eq!(load_sound(&settings), model(&[apply("a", 1), apply("b", 1), apply("d", 1)]));
    assert!(!new.status().saving);

    assert!(old.stop());
    settle(&new);
    assert!(!new.status().held_by_other);
    new.record(&[apply("e", 2)]);
    assert!(new.stop());
    // Nothing of what the old one alone believed: `d` was gone when the new one listed the pods, or it would have told.
    assert_eq!(load_sound(&settings), model(&[apply("a", 2), apply("c", 2), apply("e", 2)]));
}

#[test]
fn the_new_one_goes_on_from_what_it_loaded_whatever_the_old_one_compacts() {
    let directory = tempfile::tempdir().unwrap();
    let settings = super::Settings { journal: 64, ..settings(directory.path()) };
    write(&settings, &[vec![apply("kept", 0), apply("changed", 0)]]);
    let old = start(&settings);
    old.synced();
    settle(&old);

    let new = start(&settings);
    for i in 0..20 {
        old.record(&[apply("changed", i), apply(i, i)]);
        settle(&old);
    }
    wait(&old, |s| s.compactions > 1);
    new.record(&[apply("changed", 99)]);
    new.synced();
    wait(&new, |s| s.held_by_other);
    // Killed rather than stopped, as far as the lock goes: nothing of the old one's is needed.
    drop(old);
    settle(&new);
    assert_eq!(load_sound(&settings), model(&[apply("kept", 0), apply("changed", 99)]));
    assert!(new.stop());
}

#[test]
fn an_agent_that_never_comes_to_know_the_world_leaves_the_old_one_alone() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let old = start(&settings);
    old.record(&[apply("a", 1)]);
    old.synced();
    settle(&old);
    let new = start(&settings);
    new.record(&[apply("b", 2)]);
    wait(&new, |s| s.waiting_bytes == 0);
    assert!(!new.stop());
    old.record(&[apply("c", 1)]);
    assert!(old.stop());
    assert_eq!(load_sound(&settings), model(&[apply("a", 1), apply("c", 1)]));
}
