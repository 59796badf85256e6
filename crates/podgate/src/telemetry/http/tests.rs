//! The HTTP server from outside: what a probe or Prometheus sees.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: podgate\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn start() -> (Arc<State>, Server) {
    let state = State::new();
    let server = serve("127.0.0.1:0".parse().unwrap(), state.clone()).unwrap();
    (state, server)
}

#[test]
fn readyz_tells_each_reason_until_the_world_is_enforced() {
    let (state, server) = start();
    let (status, body) = get(server.address(), "/readyz");
    assert_eq!((status, body.lines().count()), (503, 2), "{body}");

    state.readiness.synced();
    let hold = state.readiness.hold("br_netfilter is off");
    state.enforced(Generation(5), []);
    assert_eq!(get(server.address(), "/readyz"), (503, "br_netfilter is off\n".to_owned()));

    drop(hold);
    assert_eq!(get(server.address(), "/readyz"), (200, "ready\ngeneration 5\n".to_owned()));
    state.source_problems.set(2);
    assert!(get(server.address(), "/readyz").1.contains("problems at the source: 2"));
}

#[test]
fn readyz_with_a_generation_answers_when_it_is_in_force() {
    let (state, server) = start();
    state.readiness.synced();
    state.enforced(Generation(1), []);
    let address = server.address();
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
    let address = server.address();
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
    drop(serve(address, State::new()).unwrap());
}

#[test]
fn a_query_that_makes_no_sense_is_refused() {
    let (_state, server) = start();
    for path in ["/readyz?generation=new", "/readyz?generation=-1", "/readyz?node=a"] {
        assert_eq!(get(server.address(), path).0, 400, "{path}");
    }
}

#[test]
fn healthz_tells_what_is_wrong_with_the_workers() {
    let (state, server) = start();
    assert_eq!(get(server.address(), "/healthz"), (200, "ok\n".to_owned()));
    state.watch_over(|| vec!["worker 1 has ended".to_owned()]);
    assert_eq!(get(server.address(), "/healthz"), (503, "worker 1 has ended\n".to_owned()));
}

#[test]
fn metrics_are_served_and_other_paths_say_what_there_is() {
    let (_state, server) = start();
    let (status, body) = get(server.address(), "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("podgate_build_info{"), "{body}");
    let (status, body) = get(server.address(), "/");
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
}

#[test]
fn an_address_in_use_is_told_in_one_line_that_says_what_to_do() {
    let (_state, server) = start();
    let error = serve(server.address(), State::new()).expect_err("the address is taken").to_string();
    assert!(error.contains(&server.address().to_string()) && error.contains("--http"), "{error}");
}

#[test]
fn an_address_of_another_host_is_told() {
    let error = serve("192.0.2.1:0".parse().unwrap(), State::new()).expect_err("not ours").to_string();
    assert!(error.contains("no address of this host"), "{error}");
}
