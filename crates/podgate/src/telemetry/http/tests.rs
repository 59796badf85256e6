//! The HTTP server from outside: what a probe or Prometheus sees.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use podgate_engine::Generation;
use podgate_watch::{FreshState, Freshness, Problem};

use super::*;

mod crowded;
mod guarded;

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: podgate\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn ask(socket: &Path, what: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {what} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn at(address: SocketAddr) -> Settings {
    Settings { address: Some(address), ..Settings::default() }
}

fn place(server: &Server) -> SocketAddr {
    server.address().unwrap()
}

fn start() -> (Arc<State>, Server) {
    let state = State::new();
    let server = serve(&at("127.0.0.1:0".parse().unwrap()), state.clone()).unwrap();
    (state, server)
}

#[test]
fn readyz_tells_each_reason_until_the_world_is_enforced() {
    let (state, server) = start();
    let (status, body) = get(place(&server), "/readyz");
    assert_eq!((status, body.lines().count()), (503, 2), "{body}");

    state.readiness.synced();
    let hold = state.readiness.hold("br_netfilter is off");
    state.enforced(Generation(5), []);
    assert_eq!(get(place(&server), "/readyz"), (503, "br_netfilter is off\n".to_owned()));

    drop(hold);
    assert_eq!(get(place(&server), "/readyz"), (200, "ready\ngeneration 5\n".to_owned()));
    let problem = Problem { place: "a.yaml:3".to_owned(), object: None, message: "no policy".to_owned() };
    state.set_problems(vec![problem.clone(), problem]);
    assert!(get(place(&server), "/readyz").1.contains("problems at the source: 2"));
}

#[test]
fn a_source_that_fails_after_it_was_live_leaves_the_agent_ready_and_is_told() {
    let (state, server) = start();
    state.readiness.synced();
    state.enforced(Generation(5), []);
    let why = "the API server is away".to_owned();
    let failing = FreshState::Failing { since: podgate_watch::Since::now(), why };
    state.freshness(vec![Freshness { resource: "pods".to_owned(), state: failing }]);
    let expected = "ready\ngeneration 5\npods: not followed for 0 s: the API server is away\n";
    assert_eq!(get(place(&server), "/readyz"), (200, expected.to_owned()));
}

#[test]
fn readyz_with_a_generation_answers_when_it_is_in_force() {
    let (state, server) = start();
    state.readiness.synced();
    state.enforced(Generation(1), []);
    let address = place(&server);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || get(address, "/readyz?generation=3"));
        // The request is waiting in the handler when the server has subscribed a receiver for it.
        let mut turns = 0;
        while state.readiness.receivers() == 0 {
            turns += 1;
            assert!(turns < 100_000_000, "the request never came to wait");
            std::thread::yield_now();
        }
        state.enforced(Generation(2), []);
        assert!(!waiter.is_finished());
        state.enforced(Generation(3), []);
        assert_eq!(waiter.join().unwrap(), (200, "ready\ngeneration 3\n".to_owned()));
    });
}

#[test]
fn a_stop_ends_waiting_requests_and_frees_the_address() {
    let (state, server) = start();
    state.readiness.synced();
    state.enforced(Generation(1), []);
    let address = place(&server);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || get(address, "/readyz?generation=9"));
        while state.readiness.receivers() == 0 {
            std::thread::yield_now();
        }
        server.stop();
        let (status, body) = waiter.join().unwrap();
        assert_eq!(status, 503);
        assert!(body.contains("generation 9 is not in force yet; in force: 1"), "{body}");
    });
    // Free for anybody, not only for another agent.
    drop(std::net::TcpListener::bind(address).unwrap());
}

#[test]
fn a_query_that_makes_no_sense_is_refused() {
    let (_state, server) = start();
    for path in ["/readyz?generation=new", "/readyz?generation=-1", "/readyz?node=a"] {
        assert_eq!(get(place(&server), path).0, 400, "{path}");
    }
}

#[test]
fn healthz_tells_what_is_wrong_with_the_workers() {
    let (state, server) = start();
    assert_eq!(get(place(&server), "/healthz"), (200, "ok\n".to_owned()));
    state.watch_over(|| vec!["worker 1 has ended".to_owned()]);
    assert_eq!(get(place(&server), "/healthz"), (503, "worker 1 has ended\n".to_owned()));
}

#[test]
fn metrics_are_served_and_other_paths_say_what_there_is() {
    let (_state, server) = start();
    let (status, body) = get(place(&server), "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("podgate_build_info{"), "{body}");
    let (status, body) = get(place(&server), "/");
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
}

#[test]
fn two_agents_share_an_address_and_each_answers_when_the_other_has_ended() {
    let (_first_state, first) = start();
    let second_state = State::new();
    let second = serve(&at(place(&first)), second_state.clone()).unwrap();
    assert_eq!(place(&second), place(&first));
    first.stop();
    second_state.readiness.synced();
    second_state.enforced(Generation(7), []);
    assert_eq!(get(place(&second), "/readyz"), (200, "ready\ngeneration 7\n".to_owned()));
}

#[test]
fn an_address_that_something_else_has_is_told_in_one_line_that_says_what_to_do() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let error = serve(&at(address), State::new()).expect_err("the address is taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--http"), "{error}");
}

#[test]
fn an_address_of_another_host_is_told() {
    let error = serve(&at("192.0.2.1:0".parse().unwrap()), State::new()).expect_err("not ours").to_string();
    assert!(error.contains("no address of this host"), "{error}");
}

#[test]
fn without_an_address_there_is_the_socket_alone_and_it_tells_the_status_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let state = State::new();
    let settings = Settings { socket: Some(path.clone()), ..Settings::default() };
    let server = serve(&settings, state.clone()).unwrap();
    assert_eq!(server.address(), None);
    let ask = |what: &str| ask(&path, what);
    assert!(ask("/status").contains(" 503 "));
    state.answer_status(|| "{}".to_owned());
    assert!(ask("/status").ends_with("\r\n\r\n{}"));
    assert!(ask("/readyz").contains(" 503 "));
    assert!(ask("/metrics").contains("podgate_build_info{"));
    server.stop();
    assert!(!path.exists());
}

/// Who answers at the socket. Each look is a request, and the pace.
fn await_answer(socket: &Path, wanted: &str) {
    for _ in 0..100_000 {
        if ask(socket, "/status").ends_with(wanted) {
            return;
        }
    }
    panic!("{wanted} never answered");
}

#[test]
fn a_new_agent_takes_the_sockets_path_when_it_is_ready_or_the_old_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let settings = Settings { socket: Some(path.clone()), ..Settings::default() };
    let agent = |name: &'static str| {
        let state = State::new();
        state.answer_status(move || name.to_owned());
        (serve(&settings, state.clone()).unwrap(), state)
    };
    let (first, _first_state) = agent("first");
    let (second, second_state) = agent("second");
    await_answer(&path, "first");
    second_state.readiness.synced();
    second_state.enforced(Generation(1), []);
    await_answer(&path, "second");
    first.stop();
    await_answer(&path, "second");

    let (third, _third_state) = agent("third");
    // It is still waiting for the second, which goes.
    drop(second);
    let gone = |path: &Path| UnixStream::connect(path).is_err();
    while gone(&path) {
        std::thread::yield_now();
    }
    await_answer(&path, "third");
    third.stop();
    assert!(!path.exists());
}

#[test]
fn the_network_is_not_told_the_status() {
    let (state, server) = start();
    state.answer_status(|| "{}".to_owned());
    assert_eq!(get(place(&server), "/status").0, 404);
}

#[test]
fn a_socket_that_cannot_be_made_keeps_nobody_from_starting() {
    let settings = Settings {
        address: Some("127.0.0.1:0".parse().unwrap()),
        socket: Some("/proc/no/such/place".into()),
        ..Settings::default()
    };
    let server = serve(&settings, State::new()).unwrap();
    assert_eq!(get(place(&server), "/healthz").0, 200);
}
