//! The wall clock jumps, or was wrong all along: it is for time stamps that people read, and decides nothing. Only the
//! agent's clock is set, by a library that it is started with; the machine's stays as it is.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{ArrivalKind, PATIENCE, Packet, PodOptions, Probe, mortal};

use crate::apiserver::ApiServer;
use crate::kit::{LONG, binary, pair, web_on};
use crate::overload::{CLOSED, OPEN, expect_well};

/// Every way to read the wall clock, with so many seconds added as stand in a file.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("PODGATE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) abort();
    offset = at;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A wall clock of its own for each agent that is started with it.
struct Clock {
    directory: tempfile::TempDir,
    offset: fs::File,
}

impl Clock {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (source, library) = (directory.path().join("clock.c"), directory.path().join("clock.so"));
        fs::write(&source, LIBRARY).expect("written");
        let mut compiler = Command::new("cc");
        let output = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let output = output.expect("a C compiler (tests/setup gcc)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut offset = fs::File::create_new(directory.path().join("offset")).expect("made");
        offset.write_all(&[0; 8]).expect("written");
        Clock { directory, offset }
    }

    /// The clock says this from now on, and goes on from there.
    fn set(&self, to: SystemTime) {
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let offset = seconds(to) - seconds(SystemTime::now());
        self.offset.write_all_at(&offset.to_ne_bytes(), 0).expect("written");
    }

    /// The agent's command.
    fn agent(&self) -> Command {
        let (library, offset) = (self.directory.path().join("clock.so"), self.directory.path().join("offset"));
        let mut command = mortal("env");
        command.arg(format!("LD_PRELOAD={}", library.display()));
        command.arg(format!("PODGATE_TEST_CLOCK={}", offset.display())).arg(binary());
        command
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// Some day of 1970, and of 2076: jiff and others print them alike.
fn past() -> SystemTime {
    SystemTime::UNIX_EPOCH + 3 * DAY
}

fn future() -> SystemTime {
    SystemTime::UNIX_EPOCH + (106 * 365 + 60) * DAY
}

#[test]
fn a_clock_that_jumps_changes_nothing_but_time_stamps() {
    let clock = Clock::new();
    let (mut node, web, client, server) = pair(&[OPEN, CLOSED], &[53]);
    node.write("policy.yaml", &web_on("TCP", OPEN));
    node.launch_as(clock.agent(), &["--hold-time", "300", "--loose-seconds", "0"]);
    node.agent().await_ready();
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    let mut expired = 0.0;
    for (round, (to, year)) in
        [(future(), "2076-"), (past(), "1970-"), (SystemTime::now(), "20")].into_iter().enumerate()
    {
        clock.set(to);
        connection.ping(PATIENCE).expect("what is established goes on");
        // It is repeated by the kernel, and what is not in use has its time, whatever the clock says.
        let hits = "podgate_cache_hits_total{verdict=\"accept\"}";
        let repeated = node.metric(hits);
        let deadline = std::time::Instant::now() + LONG;
        while node.metric(hits) == repeated {
            assert!(client.client().connect(web.v4(), OPEN, PATIENCE).is_open(), "{}", node.log());
            assert!(std::time::Instant::now() < deadline, "nothing is repeated any more\n{}", node.log());
        }
        while round == 0 && node.metric("podgate_cache_entries{verdict=\"accept\"}") > 0.0 {
            assert!(std::time::Instant::now() < deadline, "it is repeated for ever\n{}", node.log());
            std::thread::yield_now();
        }
        // What is unknown is held for its time, no more and no less.
        let new = node.host.pod(PodOptions::new(&format!("shop/new-{round}"))).expect("a pod");
        let say = |text: &str| {
            let packet =
                Packet::udp(SocketAddr::new(new.v4(), 4000), SocketAddr::new(client.v4(), 53), text.as_bytes());
            new.netns().send(&packet).expect("sent");
        };
        say("unknown");
        expired += 1.0;
        node.await_metric("podgate_hold_denied_packets_total{reason=\"expired\"}", expired);
        // A change is in force at once, and so is the next.
        node.apply("policy.yaml", &web_on("TCP", CLOSED));
        node.expect(&[
            Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
            Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
        ]);
        node.apply("policy.yaml", &web_on("TCP", OPEN));
        connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted again");
        node.agent().await_line(year);
        expect_well(&node, &web, &client);
    }
    let unknown = ArrivalKind::Datagram(b"unknown".to_vec());
    assert!(!server.arrivals().iter().any(|a| a.kind == unknown));
}

#[test]
fn a_world_that_was_saved_in_the_future_or_in_1970_is_the_last_known_one_all_the_same() {
    let clock = Clock::new();
    let (mut node, web, client, _server) = pair(&[OPEN, CLOSED], &[]);
    // Each agent knows from disk what the one before knew, at another time.
    for (round, (saved, read)) in [(future(), past()), (past(), future())].into_iter().enumerate() {
        let (open, closed) = if round == 0 { (OPEN, CLOSED) } else { (CLOSED, OPEN) };
        clock.set(saved);
        let api = ApiServer::of(&node, &[&web, &client], open);
        let agent = node.follow_cluster(clock.agent(), &[]);
        node.adopt_ready(agent);
        node.await_metric("podgate_saved_world_up", 1.0);
        let told = node.metric("podgate_start_time_seconds");
        let expected = saved.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((told - expected).abs() < DAY.as_secs_f64(), "its clock is not the test's: {told}");
        node.stop();
        drop(api);

        clock.set(read);
        let agent = node.follow_cluster(clock.agent(), &[]);
        node.adopt_ready(agent);
        assert_eq!(node.metric("podgate_restored_world"), 1.0, "{}", node.log());
        // For how long something is so is no matter of the wall clock either.
        clock.set(saved);
        let failing = "podgate_source_failing_seconds{resource=\"pods\"}";
        node.await_metric(failing, f64::MIN_POSITIVE);
        assert!(node.metric(failing) < DAY.as_secs_f64(), "{}", node.metric(failing));
        node.expect(&[
            Probe::open(client.client(), web.v4(), Tcp(open)),
            Probe::closed(client.client(), web.v4(), Tcp(closed)),
        ]);
        node.stop();
    }
}
