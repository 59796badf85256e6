//! Clients that hold connections and ask nothing, do not take what they asked for, or ask all the time.

use std::sync::Mutex;
use std::sync::mpsc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::*;

/// A client's patience with the server: longer than any test needs, so that a failure is told and does not hang.
const TOO_LONG: Duration = Duration::from_secs(20);

fn within(limits: Limits) -> Settings {
    Settings { tcp: limits, unix: limits, ..at("127.0.0.1:0".parse().unwrap()) }
}

fn few() -> Limits {
    Limits { connections: 4, patience: TOO_LONG }
}

fn hasty() -> Limits {
    Limits { connections: 64, patience: Duration::from_millis(50) }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(place(server)).unwrap();
    stream.set_read_timeout(Some(TOO_LONG)).unwrap();
    stream
}

/// Whether the server has closed it, or does now.
fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 4096]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn clients_that_say_nothing_keep_nobody_from_an_answer() {
    let state = State::new();
    let server = serve(&within(few()), state).unwrap();
    let mut silent: Vec<_> = (0..100).map(|_| connect(&server)).collect();
    assert_eq!(get(place(&server), "/healthz").0, 200);
    // The answer came after all of them were accepted, and took the place of one.
    assert!(silent[..97].iter_mut().all(is_closed));
    let mut last = silent.pop().unwrap();
    last.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}

#[test]
fn a_request_under_way_is_not_ended_for_those_that_ask_nothing() {
    let state = State::new();
    let server = serve(&within(few()), state.clone()).unwrap();
    state.readiness.synced();
    std::thread::scope(|scope| {
        let address = place(&server);
        let waiter = scope.spawn(move || get(address, "/readyz?generation=3"));
        while state.readiness.receivers() == 0 {
            std::thread::yield_now();
        }
        let _silent: Vec<_> = (0..50).map(|_| connect(&server)).collect();
        assert_eq!(get(address, "/healthz").0, 200);
        state.enforced(Generation(3), []);
        assert_eq!(waiter.join().unwrap(), (200, "ready\ngeneration 3\n".to_owned()));
    });
}

#[test]
fn silent_clients_at_the_socket_keep_nobody_from_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let settings = Settings { address: None, socket: Some(path.clone()), ..within(few()) };
    let server = serve(&settings, State::new()).unwrap();
    let _silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(ask(&path, "/healthz").contains(" 200 "));
    drop(server);
}

#[test]
fn a_connection_on_which_no_request_comes_to_its_end_is_closed() {
    let server = serve(&within(hasty()), State::new()).unwrap();
    for said in ["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: podgate\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(said.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect(said);
        assert!(!answer.contains(" 200 "), "{said}: {answer}");
    }
}

#[test]
fn a_connection_that_is_kept_is_closed_when_no_further_request_comes() {
    let server = serve(&within(hasty()), State::new()).unwrap();
    let mut stream = connect(&server);
    let request = b"GET /healthz HTTP/1.1\r\nHost: podgate\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(&request.repeat(2)).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
}

#[test]
fn a_request_may_take_longer_than_the_patience_with_clients() {
    let state = State::new();
    let server = serve(&within(hasty()), state.clone()).unwrap();
    state.readiness.synced();
    std::thread::scope(|scope| {
        let address = place(&server);
        let waiter = scope.spawn(move || get(address, "/readyz?generation=3"));
        while state.readiness.receivers() == 0 {
            std::thread::yield_now();
        }
        // Two connections, one after the other, have used up theirs.
        assert!((0..2).all(|_| is_closed(&mut connect(&server))));
        state.enforced(Generation(3), []);
        assert_eq!(waiter.join().unwrap().0, 200);
    });
}

#[test]
fn a_tls_handshake_that_does_not_begin_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let files = guarded::certified(directory.path());
    let server = serve(&Settings { tls: files.tls, ..within(hasty()) }, State::new()).unwrap();
    assert!(is_closed(&mut connect(&server)));
}

/// A metric whose reading takes until a word is said.
struct Slow {
    begun: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Collector for Slow {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.begun.send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        Vec::new()
    }
}

#[test]
fn probes_do_not_wait_for_scrapes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let state = State::new();
    let (begun, has_begun) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    state.register(Slow { begun, go: Mutex::new(wait) });
    let settings = Settings { socket: Some(path.clone()), ..at("127.0.0.1:0".parse().unwrap()) };
    let server = serve(&settings, state).unwrap();
    let address = place(&server);
    std::thread::scope(|scope| {
        let scrapes: Vec<_> = (0..32).map(|_| scope.spawn(move || get(address, "/metrics").0)).collect();
        has_begun.recv().unwrap();
        for (path, said) in [("/healthz", " 200 "), ("/readyz", " 503 ")] {
            let (mut stream, mut answer) = (connect(&server), String::new());
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            let asked = stream.read_to_string(&mut answer);
            if asked.is_err() || !answer.contains(said) {
                // Else everybody here waits for ever.
                (0..32).for_each(|_| go.send(()).unwrap());
                panic!("{path}: {asked:?} {answer}");
            }
        }
        assert!(ask(&path, "/healthz").contains(" 200 "));
        // All of them are answered by however many readings that takes.
        (0..32).for_each(|_| go.send(()).unwrap());
        assert!(scrapes.into_iter().all(|scrape| scrape.join().unwrap() == 200));
    });
}

/// More than the kernel keeps for a client that does not read.
struct Large;

impl Collector for Large {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name("large".to_owned());
        family.set_help("x".repeat(32 << 20));
        family.set_field_type(prometheus::proto::MetricType::GAUGE);
        family.set_metric(vec![prometheus::proto::Metric::default()]);
        vec![family]
    }
}

/// Whether the server's end of the connection is established yet (tcp(7): column 4 of `/proc/net/tcp` is the state).
fn is_held(server: SocketAddr, client: SocketAddr) -> bool {
    let name = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("{address}") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let wanted = format!("{} {} 01", name(server), name(client));
    std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap().lines().any(|line| line.contains(&wanted))
}

#[test]
fn an_answer_that_is_not_taken_is_dropped_with_its_connection() {
    let state = State::new();
    state.register(Large);
    let server = serve(&within(hasty()), state).unwrap();
    let mut stream = connect(&server);
    let ends = (place(&server), stream.local_addr().unwrap());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: podgate\r\n\r\n").unwrap();
    // The answer has begun; nothing more of it is taken.
    stream.read_exact(&mut [0; 1]).unwrap();
    let deadline = std::time::Instant::now() + TOO_LONG;
    while is_held(ends.0, ends.1) {
        assert!(std::time::Instant::now() < deadline, "it is held for ever");
        std::thread::yield_now();
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 32 << 20, "all of it came: {}", rest.len());
}
