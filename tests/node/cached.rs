//! The verdict cache: what comes again does not come up, counts all the same, and nothing stale is ever repeated.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::{ArrivalKind, PATIENCE, Packet, Pod, PodOptions, Probe};

use crate::kit::{LONG, Node, deny_all, pair, policy, web_on};

const RULE: &str = "networkpolicy/shop/web/ingress/0";
const DEFAULT_DENY: &str = "networkpolicy/shop/web/ingress/default-deny";
const ACCEPTING: &str = "podgate_cache_entries{verdict=\"accept\"}";
const DROPPING: &str = "podgate_cache_entries{verdict=\"drop\"}";
/// Nothing is judged in both orientations, so that denials may be repeated from the start.
const STRICT: [&str; 2] = ["--loose-seconds", "0"];

/// A datagram of a flow of its own.
fn datagram(client: &Pod, to: SocketAddr, text: &str) {
    let from = SocketAddr::new(client.v4(), 0);
    let socket = client.netns().run(|| UdpSocket::bind(from)).expect("bound");
    socket.send_to(text.as_bytes(), to).expect("sent");
}

/// Sends datagrams, each a flow of its own, until a metric has this value; returns how many.
fn send_until(node: &Node, client: &Pod, to: SocketAddr, metric: &str, least: f64) -> u64 {
    let deadline = Instant::now() + LONG;
    let mut sent = 0;
    while node.metric(metric) < least {
        assert!(Instant::now() < deadline, "{metric} stays below {least}\n{}", node.log());
        datagram(client, to, "again");
        sent += 1;
    }
    sent
}

/// Waits until every packet that was sent has its verdict; nothing may be sent meanwhile.
fn await_empty_queues(node: &Node) {
    let deadline = Instant::now() + LONG;
    let waits = |text: &str| text.lines().any(|l| l.starts_with("podgate_queue_depth{") && !l.ends_with(" 0"));
    while waits(&node.get("/metrics").1) {
        assert!(Instant::now() < deadline, "packets wait for ever\n{}", node.log());
    }
}

#[test]
fn repeated_connections_are_accepted_by_the_kernel_and_each_counts_once() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&[]);
    let connect = |address| assert!(client.client().connect(address, 80, PATIENCE).is_open(), "{}", node.log());
    for address in [web.v4(), web.v6()] {
        let (before, entries) = (node.rule_count(RULE), node.metric(ACCEPTING));
        let mut connections = 0.0;
        while node.metric(ACCEPTING) == entries {
            connect(address);
            connections += 1.0;
        }
        let up = node.metric("podgate_packets_total{verdict=\"accept\"}");
        (0..20).for_each(|_| connect(address));
        assert_eq!(node.metric("podgate_packets_total{verdict=\"accept\"}"), up, "none of them came up");
        assert_eq!(node.rule_count(RULE) - before, connections + 20.0);
    }
    assert!(node.metric("podgate_cache_hits_total{verdict=\"accept\"}") >= 40.0);
    // What was accepted that way is remembered as after a verdict: replies pass, and further packets.
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open");
    connection.ping(PATIENCE).expect("it goes on");
}

#[test]
fn a_closed_port_costs_no_verdicts_and_each_packet_counts() {
    let (mut node, web, client, _server) = pair(&[], &[80]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&STRICT);
    let to = SocketAddr::new(web.v4(), 80);
    let sent = send_until(&node, &client, to, DROPPING, 1.0);
    let up = node.metric("podgate_packets_total{verdict=\"drop\"}");
    (0..100).for_each(|_| datagram(&client, to, "again"));
    assert_eq!(node.metric("podgate_packets_total{verdict=\"drop\"}"), up, "none of them came up");
    node.await_metric("podgate_cache_hits_total{verdict=\"drop\"}", 100.0);
    assert_eq!(node.rule_count(DEFAULT_DENY), sent as f64 + 100.0);
}

/// A flood of datagrams from outside, each of another forged source.
struct Flood {
    outside: Pod,
    to: SocketAddr,
    sent: u32,
}

impl Flood {
    fn send(&mut self, count: u32) {
        for number in self.sent..self.sent + count {
            let source = SocketAddr::from(((0xcb00_7100 + number % 256).to_be_bytes(), 4000));
            self.outside.netns().send(&Packet::udp(source, self.to, b"flood")).expect("sent");
        }
        self.sent += count;
    }

    /// The kernel drops what comes now, all of it, and counts it.
    fn is_dropped_without_asking(&mut self, node: &Node) {
        let up = node.metric("podgate_packets_total{verdict=\"drop\"}");
        self.send(200);
        node.await_metric("podgate_cache_hits_total{verdict=\"drop\"}", 200.0);
        assert_eq!(node.metric("podgate_packets_total{verdict=\"drop\"}"), up, "none of them came up");
    }

    /// Goes on until the kernel drops it by itself.
    fn send_until_dropped(&mut self, node: &Node) {
        let deadline = Instant::now() + LONG;
        while node.metric(DROPPING) < 1.0 {
            assert!(Instant::now() < deadline, "{}", node.log());
            self.send(1);
        }
    }
}

#[test]
fn a_flood_with_forged_sources_at_a_port_that_is_closed_to_all_needs_one_entry() {
    let (mut node, web, _client, _server) = pair(&[80], &[]);
    let outside = node.neighbour(2).pod(PodOptions::new("far/away")).expect("a pod");
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&STRICT);
    let mut flood = Flood { outside, to: SocketAddr::new(web.v4(), 53), sent: 0 };
    flood.send_until_dropped(&node);
    flood.is_dropped_without_asking(&node);
    assert_eq!(node.metric(DROPPING), 1.0);
    assert_eq!(node.rule_count(DEFAULT_DENY), f64::from(flood.sent));
}

#[test]
fn a_flood_with_forged_sources_at_a_port_that_is_open_to_some_pods_needs_one_entry_and_these_pods_get_in() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    let far = node.neighbour(2);
    node.write("node.yaml", &(node.host.manifest() + &far.manifest()));
    let (outside, friend) = (PodOptions::new("far/away"), PodOptions::new("shop/friend").label("app", "friend"));
    let (outside, friend) = (far.pod(outside).expect("a pod"), far.pod(friend).expect("a pod"));
    let from = "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{protocol: UDP, port: 53}]}]";
    node.write(
        "policy.yaml",
        &policy("web", "shop", &format!("{{podSelector: {{matchLabels: {{app: web}}}}, {from}}}")),
    );
    node.start(&STRICT);
    let mut flood = Flood { outside, to: SocketAddr::new(web.v4(), 53), sent: 0 };
    flood.send_until_dropped(&node);
    flood.is_dropped_without_asking(&node);
    // The first pod of another node, which nobody knew until now: what everybody else gets is not for it.
    node.apply(&crate::kit::pod_file(&friend), &friend.manifest());
    flood.send_until_dropped(&node);
    node.expect(&[Probe::open(friend.client(), web.v4(), Udp(53))]);
    // Nor is its block open to whoever forges an address of it.
    let IpAddr::V4(near) = friend.v4() else { panic!("an IPv4 address") };
    let [a, b, c, last] = near.octets();
    let forged = SocketAddr::from(([a, b, c, last ^ 0x80], 4000));
    let denied = node.rule_count(DEFAULT_DENY);
    flood.outside.netns().send(&Packet::udp(forged, flood.to, b"forged")).expect("sent");
    let deadline = Instant::now() + LONG;
    while node.rule_count(DEFAULT_DENY) == denied {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
    let leaked = |kind: &ArrivalKind| matches!(kind, ArrivalKind::Datagram(text) if text.starts_with(b"flo") || text.starts_with(b"for"));
    assert!(!server.arrivals().iter().any(|a| leaked(&a.kind)));
}

#[test]
fn a_port_that_opens_to_one_address_is_not_closed_to_it_any_more_and_each_packet_counts() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    let far = node.neighbour(2);
    node.write("node.yaml", &(node.host.manifest() + &far.manifest()));
    let outside = far.pod(PodOptions::new("far/away")).expect("a pod");
    let open_to = |peer: &str| {
        let from = format!("ingress: [{{from: [{peer}], ports: [{{protocol: UDP, port: 53}}]}}]");
        policy("web", "shop", &format!("{{podSelector: {{matchLabels: {{app: web}}}}, {from}}}"))
    };
    node.write("policy.yaml", &open_to("{podSelector: {matchLabels: {app: friend}}}"));
    node.start(&STRICT);
    let mut flood = Flood { outside, to: SocketAddr::new(web.v4(), 53), sent: 0 };
    flood.send_until_dropped(&node);
    node.apply("policy.yaml", &open_to("{ipBlock: {cidr: 203.0.113.7/32}}"));
    await_empty_queues(&node);
    // Until connections have been judged again, answers come up too, and count.
    node.settled_rules();
    let denied = node.rule_count(DEFAULT_DENY);
    // Each address once.
    flood.send(256);
    let whole = |kind: &ArrivalKind| *kind == ArrivalKind::Datagram(b"flood".to_vec());
    assert!(server.await_arrival(LONG, |a| whole(&a.kind)).is_some(), "{}", node.log());
    let deadline = Instant::now() + LONG;
    while node.rule_count(DEFAULT_DENY) < denied + 255.0 {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
    assert_eq!((node.rule_count(RULE), node.rule_count(DEFAULT_DENY)), (1.0, denied + 255.0));
    assert_eq!(server.arrivals().iter().filter(|a| whole(&a.kind)).count(), 1);
}

#[test]
fn a_denial_is_not_repeated_where_a_pod_may_come_up() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    let far = node.neighbour(2);
    let friend = far.pod(PodOptions::new("shop/friend").label("app", "friend")).expect("a pod");
    let peers = "[{podSelector: {matchLabels: {app: friend}}}, {ipBlock: {cidr: 192.0.2.77/32}}]";
    let spec = format!("podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: {peers}}}]");
    node.write("policy.yaml", &policy("web", "shop", &format!("{{{spec}}}")));
    node.start(&STRICT);
    let to = SocketAddr::new(web.v4(), 53);
    send_until(&node, &friend, to, DROPPING, 1.0);
    // The node's object tells that the address must be a pod's: what it sends is held for that pod.
    node.apply("far.yaml", &far.manifest());
    assert_eq!(node.metric(DROPPING), 0.0);
    let held = node.metric("podgate_held_packets_total");
    datagram(&friend, to, "early");
    node.await_metric("podgate_held_packets_total", held + 1.0);
    node.apply(&crate::kit::pod_file(&friend), &friend.manifest());
    let early = |kind: &ArrivalKind| matches!(kind, ArrivalKind::Datagram(text) if text.starts_with(b"early"));
    assert!(server.await_arrival(LONG, |a| early(&a.kind)).is_some(), "{}", node.log());
}

#[test]
fn an_entry_that_has_had_its_time_goes_and_keeps_its_count() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&[]);
    let mut connections = 0.0;
    while node.metric("podgate_cache_hits_total{verdict=\"accept\"}") < 3.0 {
        assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open(), "{}", node.log());
        connections += 1.0;
    }
    let deadline = Instant::now() + LONG;
    while node.metric(ACCEPTING) > 0.0 {
        assert!(Instant::now() < deadline, "it stays");
        std::thread::yield_now();
    }
    assert_eq!(node.rule_count(RULE), connections);
    assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open());
    assert_eq!(node.rule_count(RULE), connections + 1.0);
}

#[test]
fn without_a_cache_everything_comes_up() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&["--cache", "0"]);
    let up = node.metric("podgate_packets_total{verdict=\"accept\"}");
    (0..10).for_each(|_| assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open()));
    node.await_metric("podgate_packets_total{verdict=\"accept\"}", up + 10.0);
    assert_eq!(node.metric(ACCEPTING), 0.0);
}

/// The race between insertions and publications, on real packets: a client never pauses, so that there is always something to
/// be added, while the policy goes to and fro. What is sent after a change is in force never follows the one before.
#[test]
fn no_repeated_verdict_outlives_the_change_that_contradicts_it() {
    let (mut node, web, client, server) = pair(&[], &[53]);
    let (open, closed) = (web_on("UDP", 53), web_on("UDP", 54));
    node.write("policy.yaml", &closed);
    node.start(&STRICT);
    let to = SocketAddr::new(web.v4(), 53);
    let (stop, hammered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Whoever has it sends.
    let turn = Arc::new(Mutex::new(()));
    let hammer = || {
        let (stop, hammered, netns, from) = (stop.clone(), hammered.clone(), client.netns().clone(), client.v4());
        let turn = turn.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(from, 0))).expect("bound");
                let sending = turn.lock().expect("no panic");
                socket.send_to(b"hammer", to).expect("sent");
                drop(sending);
                hammered.fetch_add(1, Ordering::Relaxed);
                // One at a time where it is answered, so that the server's buffer is never full.
                socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
                let _ = socket.recv(&mut [0; 16]);
            }
        })
    };
    let hammers: Vec<_> = (0..4).map(|_| hammer()).collect();
    for round in 0..25 {
        node.apply("policy.yaml", &open);
        let text = format!("open {round}");
        datagram(&client, to, &text);
        let whole = ArrivalKind::Datagram(text.into_bytes());
        assert!(server.await_arrival(LONG, |a| a.kind == whole).is_some(), "round {round}\n{}", node.log());
        node.await_metric(ACCEPTING, 1.0);
        node.apply("policy.yaml", &closed);
        (0..5).for_each(|_| datagram(&client, to, &format!("closed {round}")));
        node.await_metric(DROPPING, 1.0);
        // One that still waited for its verdict would rightly get it by the policy that comes next.
        let _turn = turn.lock().expect("no panic");
        await_empty_queues(&node);
    }
    stop.store(true, Ordering::Relaxed);
    hammers.into_iter().for_each(|hammer| hammer.join().expect("no panic"));
    // Whatever was sent before these has arrived by now, if it was to.
    node.apply("policy.yaml", &open);
    datagram(&client, to, "the end");
    let end = ArrivalKind::Datagram(b"the end".to_vec());
    assert!(server.await_arrival(LONG, |a| a.kind == end).is_some());
    let leaked = |kind: &ArrivalKind| matches!(kind, ArrivalKind::Datagram(text) if text.starts_with(b"closed"));
    assert_eq!(server.arrivals().iter().filter(|a| leaked(&a.kind)).count(), 0, "{}", node.log());
    assert!(hammered.load(Ordering::Relaxed) > 100);
}

#[test]
fn a_revoked_connection_is_not_admitted_again_by_what_was_repeated() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&[]);
    while node.metric(ACCEPTING) == 0.0 {
        assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open());
    }
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open");
    node.apply("policy.yaml", &deny_all("shop"));
    assert_eq!(node.metric(ACCEPTING), 0.0);
    assert!(connection.ping(podgate_sandbox::DENY_WAIT).is_err(), "{}", node.log());
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn a_pod_that_gets_the_address_of_another_does_not_get_its_verdicts() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    let peers = "ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]";
    node.write(
        "policy.yaml",
        &policy("web", "shop", &format!("{{podSelector: {{matchLabels: {{app: web}}}}, {peers}}}")),
    );
    node.start(&[]);
    while node.metric(ACCEPTING) == 0.0 {
        assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open());
    }
    // The pod's object goes; another claims the address, with other labels.
    let manifest = client.manifest().replace("name: client", "name: other").replace("\"client\"", "\"other\"");
    node.enforced(|| std::fs::remove_file(node.directory().join(crate::kit::pod_file(&client))).expect("removed"));
    node.apply("pod-other.yaml", &manifest);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn what_somebody_puts_into_the_cache_does_not_stay_and_no_count_is_lost_by_that() {
    let (mut node, web, client, _server) = pair(&[80], &[53]);
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&[]);
    let mut connections = 0.0;
    while node.metric("podgate_cache_hits_total{verdict=\"accept\"}") < 5.0 {
        assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open(), "{}", node.log());
        connections += 1.0;
    }
    // Not read before they are deleted.
    (0..10).for_each(|_| assert!(client.client().connect(web.v4(), 80, PATIENCE).is_open()));
    let (IpAddr::V4(from), IpAddr::V4(to)) = (client.v4(), web.v4()) else { panic!("IPv4 addresses") };
    let element = format!("add element inet podgate cache_accept4 {{ {from} . {to} . 17 . 53 }}");
    let before = node.metric("podgate_kernel_repairs_total");
    let (added, said) = node.command("nft", &[&element]);
    assert!(added, "{said}");
    node.await_metric("podgate_kernel_repairs_total", before + 1.0);
    node.expect(&[Probe::closed(client.client(), web.v4(), Udp(53))]);
    assert_eq!(node.rule_count(RULE), connections + 10.0);
}
