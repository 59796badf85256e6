//! An agent that stands still, as on a machine that was suspended or starved: what the kernel wanted to tell it is lost, its
//! sockets' buffers are full, deadlines are over. When it goes on it is right again by itself, and its metrics say so.
//!
//! A full queue, and lost notices of one change of the rules, are `overload`'s.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use nix::sys::signal::Signal;
use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Packet, PodOptions, Probe};

use crate::kit::{LONG, Node, Turn, pair, web_on};
use crate::overload::{CLOSED, OPEN, await_empty_queues, expect_well, shop};

#[test]
fn a_queue_whose_socket_has_no_room_loses_packets_is_told_and_answered_afterwards() {
    let _turn = Turn::alone();
    let (mut node, web, client, _server) = shop();
    // So long that the socket's buffer is full before the queue is.
    node.start(&["--queues", "1", "--queue-length", "60000", "--share", "off"]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let generation = node.generation();
    node.agent().stand_still();
    let unheard = Packet::udp(SocketAddr::new(client.v4(), 4000), SocketAddr::new(web.v4(), CLOSED), b"flood");
    for _ in 0..20_000 {
        client.netns().send(&unheard).expect("sent");
    }
    let alone = connection.ping(PATIENCE);
    // What changes meanwhile is in force afterwards.
    node.write("policy.yaml", &web_on("TCP", CLOSED));
    node.agent().process.signal(Signal::SIGCONT);
    alone.expect("what is established goes on without the agent");
    node.await_generation(generation + 1);
    await_empty_queues(&node);
    let lost = |reason| node.metric(&format!("podgate_queue_dropped_total{{queue=\"9840\",reason=\"{reason}\"}}"));
    println!(
        "20,000 packets for a socket that nobody reads: {} lost there, {} in the queue",
        lost("socket"),
        lost("full")
    );
    assert!(lost("socket") > 0.0 && lost("full") == 0.0, "{}", node.get("/metrics").1);
    assert!(connection.ping(DENY_WAIT).is_err(), "it is not permitted any more\n{}", node.log());
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
        Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
    ]);
    node.apply("policy.yaml", &web_on("TCP", OPEN));
    expect_well(&node, &web, &client);
}

/// How many notices of routes (the group RTMGRP_IPV4_ROUTE of NETLINK_ROUTE) were lost.
fn lost_routes(node: &Node) -> u64 {
    node.agent().lost_notices(0, 0x40)
}

fn link_towards(node: &Node, to: &str) -> String {
    let (_, route) = node.command("ip", &["-o", "route", "get", to]);
    route.split_whitespace().skip_while(|word| *word != "dev").nth(1).expect("a device").to_owned()
}

#[test]
fn an_address_that_another_pod_took_while_notices_of_routes_were_lost_is_not_the_old_pods() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let server = web.server(&[80], &[]).expect("a server");
    let [friend, stays, moved] =
        ["shop/friend", "shop/stays", "shop/moved"].map(|name| node.pod(PodOptions::new(name).label("friend", "yes")));
    let only_friends = "{podSelector: {matchLabels: {app: web}}, \
        ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";
    node.write("policy.yaml", &crate::kit::policy("web", "shop", only_friends));
    // What is unknown is denied at once: it is clear who is taken for whom.
    node.start(&["--hold-time", "0", "--cache", "0"]);
    node.expect(&[Probe::open(friend.client(), web.v4(), Tcp(80)), Probe::open(stays.client(), web.v4(), Tcp(80))]);
    let gone = node.metric("podgate_addresses_gone_total");

    node.agent().stand_still();
    let mut lines = String::new();
    for (verb, n) in ["add", "del"].iter().flat_map(|verb| (0..2000).map(move |n| (verb, n))) {
        let _ = writeln!(lines, "route {verb} 198.18.{}.{} dev lo", n >> 8, n & 255);
    }
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(lines.as_bytes()).expect("written");
    let deadline = Instant::now() + LONG;
    while lost_routes(&node) == 0 {
        assert!(Instant::now() < deadline, "none was lost");
        let (ok, said) = node.command("ip", &["-batch", file.path().to_str().expect("text")]);
        assert!(ok, "{said}");
    }
    // The CNI gives the address to another pod, of which nothing is known yet; the old pod's object is still there.
    let addresses = friend.addresses().to_vec();
    drop(friend);
    let mut options = PodOptions::new("shop/new").label("friend", "yes");
    options.addresses = addresses;
    let new = node.host.pod(options).expect("a pod");
    // A route may move to another link as well, and its address is whose it was.
    let link = link_towards(&node, &web.v4().to_string());
    let (ok, said) = node.command("ip", &["route", "replace", &moved.v4().to_string(), "dev", &link]);
    assert!(ok, "{said}");
    node.agent().process.signal(Signal::SIGCONT);
    node.await_metric("podgate_addresses_gone_total", gone + 2.0);
    assert_eq!(node.metric("podgate_addresses_gone_total"), gone + 2.0, "{}", node.log());
    node.expect(&[
        Probe::closed(new.client(), web.v4(), Tcp(80)),
        Probe::closed(new.client(), web.v6(), Tcp(80)),
        Probe::open(stays.client(), web.v4(), Tcp(80)),
        Probe::open(stays.client(), web.v6(), Tcp(80)),
    ]);
    let heard = |from: std::net::IpAddr| server.arrivals().iter().filter(|a| a.from.ip() == from).count();
    assert_eq!(heard(new.v6()), 0);
    node.enforced(|| node.tell(&new));
    node.expect(&[Probe::open(new.client(), web.v4(), Tcp(80)), Probe::open(new.client(), web.v6(), Tcp(80))]);
}

#[test]
fn after_a_long_stop_all_is_as_the_world_says_by_then() {
    let (mut node, web, client, server) = pair(&[OPEN, CLOSED], &[53]);
    node.write("policy.yaml", &web_on("TCP", OPEN));
    node.start(&["--loose-seconds", "0"]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let entries = "podgate_cache_entries{verdict=\"accept\"}";
    let deadline = Instant::now() + LONG;
    while node.metric(entries) == 0.0 {
        assert!(Instant::now() < deadline && client.client().connect(web.v4(), OPEN, PATIENCE).is_open());
    }
    // A new pod says something, and nobody is told who it is in time.
    let new = node.host.pod(PodOptions::new("shop/new")).expect("a pod");
    let early = Packet::udp(SocketAddr::new(new.v4(), 4000), SocketAddr::new(web.v4(), 53), b"early");
    new.netns().send(&early).expect("sent");
    node.await_metric("podgate_held_packets_total", 1.0);

    let generation = node.generation();
    node.agent().stand_still();
    node.write("policy.yaml", &web_on("TCP", CLOSED));
    // Until the kernel has forgotten by itself what it repeats, longer than packets are held.
    let deadline = Instant::now() + 2 * LONG;
    let repeats = || node.command("nft", &["list", "table", "inet", "podgate"]).1.contains("expires");
    while repeats() {
        assert!(Instant::now() < deadline, "it is never forgotten");
        connection.ping(PATIENCE).expect("what is established goes on");
    }
    let unanswered = client.client().connect(web.v4(), OPEN, DENY_WAIT);
    assert!(!unanswered.is_open(), "nobody could have allowed it");
    let (flushed, said) = node.command("nft", &["flush", "ruleset"]);
    assert!(flushed, "{said}");
    node.agent().process.signal(Signal::SIGCONT);

    node.await_metric("podgate_kernel_repairs_total", 1.0);
    node.await_generation(generation + 1);
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
        Probe::closed(client.client(), web.v6(), Tcp(OPEN)),
        Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
        Probe::open(client.client(), web.v6(), Tcp(CLOSED)),
    ]);
    assert!(connection.ping(DENY_WAIT).is_err(), "it is not permitted any more\n{}", node.log());
    node.await_metric("podgate_hold_denied_packets_total{reason=\"expired\"}", 1.0);
    assert!(!server.arrivals().iter().any(|a| a.from.ip() == new.v4()), "{:?}", server.arrivals());
    node.apply("policy.yaml", &web_on("TCP", OPEN));
    expect_well(&node, &web, &client);
}
