//! What cannot be read, and what should not be: denied for a while, pipes, sockets.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo, setfsuid};

use super::super::follower::Follower;
use super::*;

fn fifo(path: &Path) {
    mkfifo(path, Mode::S_IRWXU).unwrap();
}

fn told(events: &[Event]) -> Vec<Problem> {
    let problems = events.iter().rev().find_map(|event| match event {
        Event::Problems(problems) => Some(problems.clone()),
        _ => None,
    });
    problems.unwrap_or_default()
}

fn applied(events: &[Event]) -> usize {
    events.iter().map(|event| if let Event::Changes { changes, .. } = event { changes.len() } else { 0 }).sum()
}

/// Steps until nothing is left to do at once.
fn steps(follower: &mut Follower) -> Vec<Event> {
    let mut events = follower.step().unwrap();
    while follower.has_more() {
        events.extend(follower.step().unwrap());
    }
    events
}

/// What is denied is denied to this thread only, and so the end of that is no event of the file.
#[test]
fn what_could_not_be_read_is_tried_again_without_an_event_and_told_meanwhile() {
    for denied in ["a.yaml", "sub"] {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("a.yaml"), policy("p")).unwrap();
        fs::write(path("sub/b.yaml"), policy("q")).unwrap();
        fs::set_permissions(path(denied), PermissionsExt::from_mode(0o000)).unwrap();
        setfsuid(Uid::from_raw(65534));
        let (mut follower, _readable) = Follower::new(directory.path().to_owned()).unwrap();
        let events = steps(&mut follower);
        let first = follower.deadline().expect("it will be tried again");
        std::thread::sleep(first.saturating_duration_since(Instant::now()));
        let still = steps(&mut follower);
        let second = follower.deadline().expect("it will be tried once more");
        setfsuid(Uid::from_raw(0));

        let [problem] = &told(&events)[..] else { panic!("{denied}: {events:?}") };
        assert_eq!(problem.place, path(denied).display().to_string());
        assert!(problem.message.contains("cannot be read") && problem.message.contains("tried again"), "{problem:?}");
        assert_eq!((applied(&events), still.len()), (1, 0), "{denied}");
        assert!(second - first > Duration::from_millis(250), "{denied}: it waits longer each time");

        std::thread::sleep(second.saturating_duration_since(Instant::now()));
        let events = steps(&mut follower);
        assert_eq!(applied(&events), 1, "{denied}: {events:?}");
        let mended = |event: &Event| matches!(event, Event::Problems(problems) if problems.is_empty());
        assert!(events.iter().any(mended), "{denied}: {events:?}");
        assert_eq!(follower.deadline(), None, "{denied}");
    }
}

#[tokio::test]
async fn a_fifo_or_a_socket_named_like_a_manifest_is_told_and_stops_nothing() {
    let mut world = World::new(|dir| {
        fifo(&dir.join("a.yaml"));
        fs::write(dir.join("b.yaml"), pod("b", "x")).unwrap();
    })
    .await;
    let said = |world: &World, what: &str| world.problems.iter().any(|problem| problem.message.contains(what));
    assert_eq!(world.names(), "b=x");
    assert!(said(&world, "FIFO"), "{:?}", world.problems);
    // Made while the directory is followed, and in a file's place.
    fifo(&world.path("c.yaml"));
    fifo(&world.path(".new"));
    fs::rename(world.path(".new"), world.path("b.yaml")).unwrap();
    let _socket = UnixListener::bind(world.path("d.yml")).unwrap();
    world.until("all told", |world| world.problems.len() == 4).await;
    assert!(said(&world, "socket"), "{:?}", world.problems);
    assert_eq!(world.names(), "b=x", "what was there before stays in force");
    world.settle().await;
    // A file again.
    for name in ["a.yaml", "b.yaml", "c.yaml", "d.yml"] {
        world.write(".new", &pod(&name[..1], "z"));
        fs::rename(world.path(".new"), world.path(name)).unwrap();
    }
    world.until_names("a=z b=z c=z d=z").await;
    world.until("no problem", |world| world.problems.is_empty()).await;
    assert!(world.deleted.is_empty(), "{:?}", world.deleted);
}

#[tokio::test]
async fn a_link_whose_file_has_gone_is_no_manifest_any_more() {
    let elsewhere = TempDir::new().unwrap();
    let target = elsewhere.path().join("a");
    let mut world = World::new(|dir| {
        fs::write(&target, pod("a", "x")).unwrap();
        symlink(&target, dir.join("a.yaml")).unwrap();
    })
    .await;
    fs::remove_file(&target).unwrap();
    world.until_names("").await;
    fs::write(&target, pod("a", "z")).unwrap();
    world.until_names("a=z").await;
}

#[test]
fn reading_once_refuses_a_fifo_and_does_not_wait_for_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.yaml");
    fifo(&path);
    for named in [path.as_path(), directory.path()] {
        let error = read(&[named.to_owned()]).unwrap_err().to_string();
        assert!(error.contains("a.yaml: it is a FIFO"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_told_and_not_read_and_what_it_said_before_stays() {
    // More than any memory has, and nothing on the disk.
    let sparse = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    let mut world = World::new(|dir| {
        sparse(&dir.join("a.yaml"));
        fs::write(dir.join("b.yaml"), pod("b", "x")).unwrap();
    })
    .await;
    let told = |world: &World, name: &str| {
        let place = world.path(name).display().to_string();
        let problem = world.problems.iter().find(|problem| problem.place == place);
        problem
            .is_some_and(|p| p.message.contains("larger than 64 MiB: split it") && p.message.contains("stays in force"))
    };
    assert_eq!(world.names(), "b=x");
    assert!(world.problems.len() == 1 && told(&world, "a.yaml"), "{:?}", world.problems);
    sparse(&world.path(".new"));
    fs::rename(world.path(".new"), world.path("b.yaml")).unwrap();
    world.until("both told", |world| world.problems.len() == 2).await;
    assert!(told(&world, "b.yaml"), "{:?}", world.problems);
    assert_eq!(world.names(), "b=x", "what was there before stays in force");
    assert!(world.deleted.is_empty(), "{:?}", world.deleted);
    let error = read(&[world.path("a.yaml")]).unwrap_err().to_string();
    assert!(error.contains("a.yaml: it is larger than 64 MiB"), "{error}");
}
