//! Two agents on one node: hand-over at an upgrade, its failures, and a crash, all under load.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Pod, PodOptions, Probe, Server, Signal};

use crate::kit::{LONG, Node, deny_all, pair, web_on};
use crate::load::{CLOSED, Load, OPEN};

/// New connections a second under which it happens, and how often it does; these variables make more of it.
fn dose(often: &str, default: u32) -> (u32, u32) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    (number("PODGATE_RATE").unwrap_or(400), number(often).unwrap_or(default))
}

/// Of shop/web only one port is open, by TCP and UDP.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[OPEN], &[OPEN]);
    node.write("policy.yaml", &web_on("TCP", OPEN).replace("port: 80}", "port: 80}, {protocol: UDP, port: 80}"));
    (node, web, client, server)
}

fn judged_right(node: &Node, web: &Pod, client: &Pod) {
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(OPEN)),
        Probe::open(client.client(), web.v6(), Tcp(OPEN)),
        Probe::closed(client.client(), web.v4(), Tcp(CLOSED)),
    ]);
}

#[test]
fn hand_overs_under_load_lose_no_packet_and_leak_none() {
    let (mut node, web, client, _server) = shop();
    let (rate, times) = dose("PODGATE_HAND_OVERS", 10);
    node.start(&["--on-exit", "remove"]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    let load = Load::start(&client, &web, rate, 8);
    load.await_connections(50);
    for _ in 0..times {
        let old = node.hand_over(&["--on-exit", "remove"]);
        load.await_connections(20);
        old.await_unready("handed over to a newer agent");
        assert_eq!(old.find_metric("podgate_owner"), Some(0.0), "{}", old.log());
        assert_eq!(node.metric("podgate_owner"), 1.0, "{}", node.log());
        connection.ping(PATIENCE).expect("it goes on");
        old.stop();
        load.await_connections(20);
        connection.ping(PATIENCE).expect("it goes on");
    }
    let came = load.stop();
    println!("{times} hand-overs at {rate} connections/s: {came:?}");
    came.lost_nothing_and_leaked_nothing(&node.log());
    judged_right(&node, &web, &client);
}

#[test]
fn the_old_agent_writes_nothing_and_its_end_leaves_the_new_ones_rules() {
    let (mut node, web, client, _server) = shop();
    node.start(&["--on-exit", "remove"]);
    let old = node.hand_over(&[]);
    old.await_unready("handed over to a newer agent");
    // Both follow these changes; only one may write them.
    node.apply("policy.yaml", &deny_all("shop"));
    node.apply("policy.yaml", &web_on("TCP", OPEN));
    let table = node.settled_rules();
    old.stop();
    assert_eq!(node.rules(), table);
    node.apply("policy.yaml", &deny_all("shop"));
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(OPEN))]);
    node.apply("policy.yaml", &web_on("TCP", OPEN));
    judged_right(&node, &web, &client);
    assert_eq!(node.metric("podgate_kernel_repairs_total"), 0.0, "nobody else wrote\n{}", node.log());
}

#[test]
fn killed_right_after_the_hand_over_the_old_agent_takes_back() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let old = node.hand_over(&[]);
    old.await_unready("handed over to a newer agent");
    let load = Load::start(&client, &web, 200, 4);
    load.await_connections(20);
    // A change meanwhile: the old one has it as well.
    let more = web_on("TCP", OPEN).replace("port: 80}", "port: 80}, {protocol: UDP, port: 80}, {port: 82}");
    node.apply("policy.yaml", &more);
    node.kill();
    old.await_ready();
    assert_eq!(old.find_metric("podgate_owner"), Some(1.0));
    load.await_connections(100);
    let came = load.stop();
    assert_eq!(came.leaked, 0, "{came:?}");
    connection.ping(PATIENCE).expect("it goes on");
    node.adopt(old);
    judged_right(&node, &web, &client);
    // The next one hesitates, as newer agents die here, and has it in the end.
    let next = node.launch_another(&[]);
    next.await_line("newer ones have died here lately");
    next.await_unready("standing by");
    assert_eq!(node.metric("podgate_owner"), 1.0);
    next.await_ready();
    let old = node.adopt(next).expect("the one before");
    old.await_unready("handed over to a newer agent");
    old.stop();
    judged_right(&node, &web, &client);
}

#[test]
fn an_owner_that_is_ended_leaves_the_table_to_the_agent_that_stands_by() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let old = node.hand_over(&["--on-exit", "remove"]);
    old.await_unready("handed over to a newer agent");
    let load = Load::start(&client, &web, 200, 4);
    load.await_connections(20);
    // A roll-back: the newer one goes, and would take the rules with it.
    node.stop();
    old.await_ready();
    load.await_connections(50);
    load.stop().lost_nothing_and_leaked_nothing(&old.log());
    node.adopt(old);
    judged_right(&node, &web, &client);
}

#[test]
fn of_agents_that_start_at_the_same_moment_one_enforces() {
    let (mut node, web, client, _server) = shop();
    let started: Vec<_> = (0..3).map(|_| node.launch_another(&[])).collect();
    let owners = || started.iter().filter(|agent| agent.find_metric("podgate_owner") == Some(1.0)).count();
    started.iter().for_each(|agent| drop(agent.get("/readyz?generation=1")));
    assert_eq!(owners(), 1);
    // It stays so: none of them gives it up or fights for it.
    let table = node.rules();
    let mut started = started;
    let owner = started.iter().position(|agent| agent.find_metric("podgate_owner") == Some(1.0)).expect("one");
    node.adopt(started.swap_remove(owner));
    judged_right(&node, &web, &client);
    assert_eq!(node.rules(), table);
    assert_eq!(node.metric("podgate_owner"), 1.0);
}

#[test]
fn a_flushed_ruleset_is_put_back_by_the_owner_alone() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let old = node.hand_over(&[]);
    old.await_unready("handed over to a newer agent");
    assert!(node.command("nft", &["flush", "ruleset"]).0);
    node.await_metric("podgate_kernel_repairs_total", 1.0);
    judged_right(&node, &web, &client);
    assert_eq!(old.find_metric("podgate_owner"), Some(0.0), "{}", old.log());
    assert_eq!(node.metric("podgate_owner"), 1.0);
}

#[test]
fn killed_and_started_again_under_load_nothing_forbidden_passes_and_established_connections_go_on() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let (rate, times) = dose("PODGATE_KILLS", 5);
    // A client that lost its SYN waits: many keep the rate up.
    let load = Load::start(&client, &web, rate, (rate / 10).max(8));
    let mut slowest = Duration::ZERO;
    // What an agent has cached is accepted while there is none; every other one caches nothing.
    for number in 0..times {
        load.await_connections(20);
        node.kill();
        // Without an agent, by the label alone, and sooner than anything is sent again.
        connection.ping(Duration::from_millis(190)).expect("it goes on");
        let begun = Instant::now();
        node.start(if number % 2 == 0 { &["--cache", "0"] } else { &[] });
        let open = client.client().first_open(web.v4(), OPEN, Duration::from_millis(1), PATIENCE).expect("asked");
        slowest = slowest.max(open.expect("open again") - begun);
        connection.ping(PATIENCE).expect("it goes on");
    }
    let came = load.stop();
    println!("{times} kills at {rate} connections/s, {slowest:?} at most from start to connection: {came:?}");
    assert_eq!(came.leaked, 0, "{came:?}");
    judged_right(&node, &web, &client);
}

#[test]
fn cleaning_up_under_a_living_agent_is_undone_and_said() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let (ok, said) = node.command(crate::kit::binary().to_str().expect("text"), &["cleanup"]);
    assert!(ok && said.contains("an agent is running"), "{said}");
    node.await_metric("podgate_kernel_repairs_total", 1.0);
    judged_right(&node, &web, &client);
}

#[test]
fn an_agent_that_knows_no_world_leaves_the_table_to_one_that_does_while_that_lives() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let next = node.launch_in_the_dark(&["--pod-cidr", "10.244.1.0/24", "--pod-cidr", "fd00:10:244:1::/64"]);
    next.await_line("another agent owns the rules: standing by");
    judged_right(&node, &web, &client);
    assert_eq!(node.metric("podgate_owner"), 1.0, "{}", node.log());
    node.kill();
    // Better closed than open; what was accepted goes on.
    next.await_line("the kernel's rules are this agent's");
    assert!(client.client().open(web.v4(), OPEN, DENY_WAIT).is_err(), "{}", next.log());
    connection.ping(PATIENCE).expect("it goes on");
}

#[test]
fn what_waited_for_an_agent_that_stood_still_through_a_hand_over_is_not_its_to_judge() {
    let (mut node, web, client, server) = pair(&[], &[53]);
    node.write("policy.yaml", &web_on("UDP", 53));
    node.start(&["--loose-seconds", "0"]);
    let socket = client.netns().run(|| UdpSocket::bind((client.v4(), 0))).expect("bound");
    let to = SocketAddr::new(web.v4(), 53);
    node.agent().stand_still();
    let since = Instant::now();
    socket.send_to(b"waits", to).expect("sent");
    let next = node.launch_another(&["--loose-seconds", "0"]);
    next.await_ready();
    let old = node.adopt(next).expect("the one before");
    node.apply("policy.yaml", &deny_all("shop"));
    // Until the newer one takes it for granted that the other has said its last.
    while since.elapsed() < Duration::from_secs(2) {
        assert!(!node.agent().get("/metrics").1.is_empty());
    }
    old.process.signal(Signal::SIGCONT);
    old.await_line("took over while this process stood still");
    assert!(server.await_arrival(DENY_WAIT, |_| true).is_none(), "{}", node.log());
    socket.send_to(b"forbidden", to).expect("sent");
    assert!(server.await_arrival(DENY_WAIT, |_| true).is_none(), "{}", node.log());
}

/// A counter of TCP in a pod, such as `OutSegs` (proc(5), /proc/net/snmp).
fn tcp_counter(pod: &Pod, name: &str) -> u64 {
    let text = pod.netns().run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("read");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.zip(values).find(|(found, _)| *found == name).expect("the counter");
    found.1.parse().expect("a number")
}

#[test]
fn a_plain_restart_costs_established_connections_nothing_and_waiting_ones_one_retransmission_once_it_is_back() {
    let (mut node, web, client, _server) = shop();
    let late = node.pod(PodOptions::new("shop/late"));
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let (rate, times) = dose("PODGATE_RESTARTS", 2);
    let load = Load::start(&client, &web, rate, (rate / 10).max(8));
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        load.await_connections(20);
        node.stop();
        connection.ping(Duration::from_millis(190)).expect("it goes on");
        let sent = tcp_counter(&late, "OutSegs");
        let (since_back, more) = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| late.client().open(web.v4(), OPEN, LONG).map(|_| Instant::now()));
            // Nobody tells when it has asked: each look is a read, and the pace.
            while tcp_counter(&late, "OutSegs") == sent {
                std::thread::yield_now();
            }
            node.start(&[]);
            let (back, again) = (Instant::now(), tcp_counter(&late, "RetransSegs"));
            let open = waiting.join().expect("no panic").expect("open again");
            (open.saturating_duration_since(back), tcp_counter(&late, "RetransSegs") - again)
        });
        assert!(more <= 1, "{more} more\n{}", node.log());
        slowest = slowest.max(since_back);
        connection.ping(PATIENCE).expect("it goes on");
    }
    let came = load.stop();
    println!("{times} restarts at {rate} connections/s, {slowest:?} at most from back to connection: {came:?}");
    assert_eq!(came.leaked, 0, "{came:?}");
    judged_right(&node, &web, &client);
}
