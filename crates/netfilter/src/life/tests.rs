//! Lives and watches, with others about.

use super::*;

#[test]
fn a_watch_ends_with_the_life() {
    let life = Life::begin().unwrap();
    let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
    let waker = Waker::new().unwrap();
    waker.wake();
    assert!(!vigil.is_over(&waker).unwrap());
    let name = life.name().to_owned();
    let watching = std::thread::spawn(move || vigil.is_over(&Waker::new().unwrap()).unwrap());
    drop(life);
    assert!(watching.join().unwrap());
    assert!(Vigil::keep(&name).unwrap().is_none());
    assert!(Vigil::keep("").unwrap().is_none());
}

#[test]
fn it_is_known_whether_anybody_watches() {
    let mut life = Life::begin().unwrap();
    assert!(!life.is_watched());
    let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
    assert!(life.is_watched());
    assert!(life.is_watched());
    drop(vigil);
    assert!(!life.is_watched());
}

#[test]
fn a_watch_ends_with_a_life_that_has_looked_who_watches() {
    let mut life = Life::begin().unwrap();
    let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
    assert!(life.is_watched());
    drop(life);
    assert!(vigil.is_over(&Waker::new().unwrap()).unwrap());
}

/// A listener that never accepts, and as many connections as it has room for.
fn crowded(name: &str) -> (UnixListener, Vec<OwnedFd>) {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(2).unwrap()).unwrap();
    let mut there = Vec::new();
    while let Found::Life(stream) = look(name).unwrap() {
        there.push(stream);
    }
    (listener, there)
}

#[test]
fn a_life_without_room_for_one_more_watch_lives_and_its_end_is_seen() {
    let name = format!("podgate/test/{}/crowded", std::process::id());
    let (listener, there) = crowded(&name);
    let vigil = Vigil::keep(&name).unwrap().expect("it lives");
    let waker = Waker::new().unwrap();
    waker.wake();
    assert!(!vigil.is_over(&waker).unwrap());
    drop((listener, there));
    assert!(vigil.is_over(&waker).unwrap());
}

#[test]
fn a_watch_that_is_hung_up_by_one_that_lives_goes_on() {
    let name = format!("podgate/test/{}/hung-up", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let vigil = Vigil::keep(&name).unwrap().expect("it lives");
    drop(listener.accept().unwrap());
    let watching = std::thread::spawn(move || vigil.is_over(&Waker::new().unwrap()).unwrap());
    // It looks, and after a pause it comes to stay.
    let looked = listener.accept().unwrap();
    let stayed = listener.accept().unwrap();
    assert!(!watching.is_finished());
    drop((looked, listener, stayed));
    assert!(watching.join().unwrap());
}

#[test]
fn connections_are_taken_as_they_come_and_those_past_the_bound_are_hung_up() {
    let life = Life::begin().unwrap();
    let connect = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(life.name()).unwrap()).unwrap();
    let mut all: Vec<_> = (0..WATCHERS).map(|_| connect()).collect();
    for _ in 0..10 {
        let past = connect();
        // Nothing is ever said on it: this is the end of it.
        past.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        assert_eq!(io::Read::read(&mut &past, &mut [0]).unwrap(), 0);
    }
    assert!(!all.iter().any(hung_up));
    // Who goes makes room.
    all.clear();
    let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
    drop(life);
    assert!(vigil.is_over(&Waker::new().unwrap()).unwrap());
}

#[test]
fn other_users_connections_are_hung_up_and_watch_nothing() {
    assert!(geteuid().is_root(), "only root can be somebody else for a moment");
    let mut life = Life::begin().unwrap();
    let name = life.name().to_owned();
    let stranger = std::thread::spawn(move || {
        // Of this thread alone: the system call, unlike the C library's function, is about one thread.
        become_nobody();
        let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        io::Read::read(&mut &stream, &mut [0]).unwrap()
    });
    assert_eq!(stranger.join().unwrap(), 0);
    assert!(!life.is_watched());
}

/// A listener of another user's, which has room for one connection.
fn strangers(name: &str) -> UnixListener {
    assert!(geteuid().is_root(), "only root can be somebody else for a moment");
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let bound = std::thread::spawn(move || {
        become_nobody();
        let listener = UnixListener::bind_addr(&address).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        listener
    });
    bound.join().unwrap()
}

#[test]
fn the_name_of_a_life_that_is_over_is_no_life_in_another_users_hands() {
    let life = Life::begin().unwrap();
    let name = life.name().to_owned();
    let vigil = Vigil::keep(&name).unwrap().expect("it lives");
    drop(life);
    let _listener = strangers(&name);
    assert!(vigil.is_over(&Waker::new().unwrap()).unwrap());
    assert!(Vigil::keep(&name).unwrap().is_none());
}

#[test]
fn nor_is_it_one_where_the_other_user_leaves_no_room_for_a_connection() {
    let name = format!("podgate/test/{}/full", std::process::id());
    let _listener = strangers(&name);
    let _first = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    assert_eq!(listener::user(&name).unwrap(), Some(65534));
    assert!(Vigil::keep(&name).unwrap().is_none());
}

#[test]
fn whose_a_listener_is_is_told_of_that_name_alone() {
    let life = Life::begin().unwrap();
    assert_eq!(listener::user(life.name()).unwrap(), Some(0));
    let part = &life.name()[..life.name().len() - 1];
    assert_eq!(listener::user(part).unwrap(), None);
}

fn become_nobody() {
    // SAFETY: the call takes numbers and changes the credentials of the calling thread only, which ends soon.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
    assert_eq!(result, 0);
}
