//! Overload and attack: floods with forged sources, an agent that cannot answer, full tables, lost notices. Afterwards it
//! lives, its queues are empty, its verdicts right, its memory bounded, and what happened is in the metrics.
//!
//! Who else notices a flood is `share`'s. The counts are bounded and small here; the variables that [`dose`] reads make
//! larger runs of the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::signal::Signal;
use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Packet, Pod, PodOptions, Probe, Server};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::apiserver::{ApiServer, NAMESPACES};
use crate::kit::{LONG, Node, Turn, pair, web_on};

pub(crate) const OPEN: u16 = 80;
pub(crate) const CLOSED: u16 = 81;

/// What an agent may have more of memory after any flood than when it began: the kernel's memory of verdicts, its copy in the
/// agent, packets that are held, records of denies, what the allocator keeps.
const BOUND: u64 = 32 << 20;

/// What it may ask for beyond that and not use, such as threads' stacks.
const ROOM: u64 = 64 << 20;

/// What it may have more after the same floods once more: so much in any case, and so much for each packet that it judged.
const STRAY: u64 = 1 << 20;
const STRAY_PER_PACKET: u64 = 100;

/// Packets of a flood.
pub(crate) fn dose() -> u32 {
    std::env::var("PODGATE_OVERLOAD_PACKETS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// shop/web opens one port by TCP and UDP to everybody.
pub(crate) fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[OPEN, CLOSED], &[OPEN, CLOSED]);
    node.write("policy.yaml", &web_on("TCP", OPEN).replace("port: 80}", "port: 80}, {protocol: UDP, port: 80}"));
    (node, web, client, server)
}

/// Sends so many SYNs or datagrams as fast as it goes, each with a source of its own, none of which is the sender's: in turn
/// of the world outside, and of the node's own pods, which nobody knows.
pub(crate) fn flood(from: &Pod, protocol: &str, to: SocketAddr, packets: u32) {
    from.netns().run(move || {
        let raw = Some(Protocol::from(nix::libc::IPPROTO_RAW));
        let socket = Socket::new(Domain::IPV4, Type::RAW, raw).expect("a socket");
        socket.set_header_included_v4(true).expect("set");
        let address = SocketAddr::new(to.ip(), 0).into();
        for n in 0..packets {
            let [_, high, middle, low] = n.to_be_bytes();
            let source = if n % 8 == 0 { [10, 244, 1, 100 + low / 2] } else { [198, 18 + (high & 1), middle, low] };
            let source = SocketAddr::from((source, 4000 + (n >> 17) as u16));
            let packet = if protocol == "TCP" { Packet::syn(source, to) } else { Packet::udp(source, to, b"flood") };
            // Who sends so fast is told now and then that there is no room.
            let _ = socket.send_to(&packet.bytes(), &address);
        }
    });
}

/// The sum of a metric's series.
pub(crate) fn total(node: &Node, name: &str) -> f64 {
    let text = node.get("/metrics").1;
    let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Waits until nothing waits for a verdict. Each look is a request, and the pace.
#[track_caller]
pub(crate) fn await_empty_queues(node: &Node) {
    let deadline = Instant::now() + LONG;
    while total(node, "podgate_queue_depth") > 0.0 {
        assert!(Instant::now() < deadline, "packets still wait\n{}", node.log());
        std::thread::yield_now();
    }
}

/// As if nothing had happened.
#[track_caller]
pub(crate) fn expect_well(node: &Node, web: &Pod, client: &Pod) {
    await_empty_queues(node);
    // A share of an overloaded queue stays for some seconds, and may cost a SYN.
    let opened = client.client().open(web.v4(), OPEN, LONG).and_then(|mut c| c.ping(PATIENCE).map(drop));
    assert_eq!(opened, Ok(()), "{}", node.log());
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(CLOSED))]);
    for path in ["/healthz", "/readyz"] {
        let (status, said) = node.get(path);
        assert_eq!(status, 200, "{path}: {said}\n{}", node.log());
    }
}

#[test]
fn floods_with_forged_sources_at_open_and_closed_ports_leave_the_agent_as_it_was() {
    let _turn = Turn::alone();
    let (mut node, web, client, server) = shop();
    let evil = node.pod(PodOptions::new("shop/evil"));
    // What a pod forges would not come up: see `forged`.
    node.start(&["--queues", "2", "--source-check", "off"]);
    expect_well(&node, &web, &client);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let (before, data) = (node.agent().memory("VmRSS"), node.agent().memory("VmData"));
    // An allocation past the bound fails, and ends the agent.
    let (pid, limit) = (node.agent().process.id().to_string(), format!("--data={}", data + BOUND + ROOM));
    let (limited, said) = node.command("prlimit", &["--pid", &pid, &limit]);
    assert!(limited, "{said}");
    let floods = [("TCP", OPEN), ("TCP", CLOSED), ("UDP", OPEN), ("UDP", CLOSED)];
    let (mut warm, mut since) = (0, 0.0);
    // Each of them twice: after the first time, all that is kept for a while, or for good, is there.
    for (number, (protocol, port)) in floods.iter().chain(&floods).copied().enumerate() {
        if number == floods.len() {
            warm = node.agent().memory("VmRSS");
        }
        let begun = Instant::now();
        let told = || {
            let names =
                ["podgate_packets_total", "podgate_queue_dropped_total", "podgate_overload_dropped_packets_total"];
            names.map(|name| total(&node, name))
        };
        let told_before = told();
        flood(&evil, protocol, SocketAddr::new(web.v4(), port), dose());
        let sent = begun.elapsed();
        connection.ping(LONG).expect("what is established does not notice");
        await_empty_queues(&node);
        let now = told();
        let [judged, lost, over] = [0, 1, 2].map(|n| now[n] - told_before[n]);
        println!(
            "{} {protocol} packets at {port} in {sent:?}: {judged} judged, {lost} lost in a queue, {over} over a share, \
             {} KiB resident",
            dose(),
            node.agent().memory("VmRSS") >> 10
        );
        assert!(judged > 0.0, "nothing came up\n{}", node.log());
        if number >= floods.len() {
            since += judged;
        }
    }
    expect_well(&node, &web, &client);
    let after = node.agent().memory("VmRSS");
    println!(
        "resident before {} KiB, warm {} KiB, {since} packets later {} KiB",
        before >> 10,
        warm >> 10,
        after >> 10
    );
    assert!(after < before + BOUND, "{before} bytes before, {after} after");
    assert!(after < warm + STRAY + STRAY_PER_PACKET * since as u64, "{warm} bytes, {after} after {since} packets more");
    let closed = |arrival: &&podgate_sandbox::Arrival| arrival.to.port() == CLOSED;
    assert_eq!(server.arrivals().iter().find(closed), None, "it leaked");
}

#[test]
fn a_queue_that_nobody_answers_overflows_and_is_told_and_answered_afterwards() {
    let _turn = Turn::alone();
    let (mut node, web, client, _server) = shop();
    node.start(&["--queues", "1", "--queue-length", "64", "--share", "off"]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.agent().stand_still();
    // From its own address: none is held.
    let unheard = Packet::udp(SocketAddr::new(client.v4(), 4000), SocketAddr::new(web.v4(), CLOSED), b"flood");
    for _ in 0..500 {
        client.netns().send(&unheard).expect("sent");
    }
    let alone = connection.ping(PATIENCE);
    node.agent().process.signal(Signal::SIGCONT);
    alone.expect("what is established goes on without the agent");
    await_empty_queues(&node);
    let lost = total(&node, "podgate_queue_dropped_total");
    println!("500 packets for a queue of 64 that nobody answers: {lost} lost");
    assert!((400.0..=500.0).contains(&lost), "{lost}");
    expect_well(&node, &web, &client);
}

/// How many notices of nftables (the group NFNLGRP_NFTABLES of NETLINK_NETFILTER) were lost.
fn lost_notices(node: &Node) -> u64 {
    node.agent().lost_notices(12, 0x40)
}

#[test]
fn a_change_of_the_rules_whose_notice_was_lost_is_undone_all_the_same() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    node.agent().stand_still();
    // Others' notices fill the socket first.
    let elements: Vec<String> = (0..100_000_u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "add table inet others; add set inet others many {{ type ipv4_addr; }}; flush set inet others many; ")
        .expect("written");
    writeln!(file, "add element inet others many {{ {} }}", elements.join(",")).expect("written");
    let mut rounds = 0;
    let path = file.path().to_str().expect("text").to_owned();
    while lost_notices(&node) == 0 && rounds < 20 {
        let (ok, said) = node.command("nft", &["-f", &path]);
        assert!(ok, "{said}");
        rounds += 1;
    }
    let gone = node.command("nft", &["delete", "table", "inet", "podgate"]);
    let lost = lost_notices(&node);
    node.agent().process.signal(Signal::SIGCONT);
    println!("after {rounds} rounds of 100,000 notices {lost} losses");
    assert!(gone.0 && lost > 0, "{lost} lost, {}", gone.1);
    node.await_metric("podgate_kernel_repairs_total", 1.0);
    expect_well(&node, &web, &client);
}

/// Connections that a test may make: some 350 MB of the kernel's memory.
const LARGEST_TABLE: f64 = 1_100_000.0;

#[test]
fn a_full_connection_table_is_told_and_over_when_there_is_room() {
    let _turn = Turn::alone();
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let limit = node.metric("podgate_conntrack_limit");
    // It is the machine's, and no namespace may change it. Past the harness, which hides what a test prints.
    if limit > LARGEST_TABLE {
        let line = format!(
            "overload: NOT RUN here: a table of {limit} connections takes too much of the machine to be filled\n"
        );
        std::io::stderr().write_all(line.as_bytes()).expect("standard error");
        return;
    }
    // Connections that the kernel does not give up for others.
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let mut lines = String::new();
    for n in 0..limit as u32 {
        let source = Ipv4Addr::from(0xc612_0000 + n);
        lines += &format!("-I -p udp -s {source} -d 192.0.2.1 --sport 9 --dport 9 -t 600 -u SEEN_REPLY,ASSURED\n");
    }
    file.write_all(lines.as_bytes()).expect("written");
    drop(lines);
    let begun = Instant::now();
    // It fails in the end, for want of room.
    let _ = node.command("conntrack", &["-R", file.path().to_str().expect("text")]);
    println!("{limit} connections in {:?}", begun.elapsed());
    let dropped = "podgate_conntrack_dropped_packets_total";
    connection.ping(PATIENCE).expect("what is established goes on");
    // Nor can anybody ask the agent by TCP now: the kernel has no room for that connection either.
    assert!(!client.client().connect(web.v4(), OPEN, DENY_WAIT).is_open(), "there was room");

    let (ok, said) = node.command("conntrack", &["-D", "-s", "198.18.0.0", "--mask-src", "255.255.192.0"]);
    assert!(ok, "{said}");
    assert!(node.metric(dropped) > 0.0 && node.metric("podgate_conntrack_entries") > limit / 2.0);
    // A revocation has all of them to look through.
    let before = node.agent().memory("VmRSS");
    let begun = Instant::now();
    node.apply("policy.yaml", &web_on("TCP", CLOSED));
    println!("in force among them after {:?}", begun.elapsed());
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
    node.await_metric("podgate_revoked_connections_total", 1.0);
    println!("labels in order after {:?}", begun.elapsed());
    println!("resident before {} KiB, after {} KiB", before >> 10, node.agent().memory("VmRSS") >> 10);
    assert!(node.agent().memory("VmRSS") < before + BOUND);
    node.apply("policy.yaml", &web_on("TCP", OPEN));
    expect_well(&node, &web, &client);
}

#[test]
fn a_full_disk_is_told_and_stops_no_policy_and_is_over_when_there_is_room() {
    let (mut node, web, client, _server) = pair(&[OPEN, CLOSED], &[]);
    let api = ApiServer::start(node.netns());
    api.put_all(&node.host, &[&web, &client]);
    let open = |port| api.put_web_on(port);
    open(OPEN);
    let agent = node.launch_on_a_small_disk(256, &[]);
    node.adopt_ready(agent);
    let up = "podgate_saved_world_up";
    node.await_metric(up, 1.0);
    expect_well(&node, &web, &client);

    // Somebody else takes all the room there is.
    let other = node.disk().join("other");
    let mut file = fs::File::create(&other).expect("made");
    for size in [4096, 64, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    // More than what is left in the page at the end of the journal.
    let large = "x".repeat(60);
    for n in 0..100 {
        api.put(NAMESPACES, json!({"metadata": {"name": format!("n{n}"), "labels": {"large": large}}}));
    }
    let deadline = Instant::now() + LONG;
    while node.metric(up) > 0.0 {
        assert!(Instant::now() < deadline, "{}", node.log());
        std::thread::yield_now();
    }
    node.await_metric("podgate_namespaces", 101.0);
    let generation = node.generation();
    open(CLOSED);
    node.await_generation(generation + 1);
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
        Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
    ]);
    let status = node.get("/readyz").1;
    node.agent().await_line("No space left");
    assert_eq!(node.get("/healthz").0, 200, "{status}");

    fs::remove_file(&other).expect("removed");
    drop(file);
    node.await_metric(up, 1.0);
    assert_eq!(node.metric("podgate_saved_world_lost_changes_total"), 0.0, "{}", node.log());
    open(OPEN);
    node.await_generation(generation + 2);
    expect_well(&node, &web, &client);
}

/// More than an agent keeps of what a disk does not take: namespaces with many labels, of some 100 KB each.
const BEYOND_MEMORY: usize = 400;

#[test]
fn a_disk_that_was_full_for_too_long_has_all_of_the_world_again_when_there_is_room() {
    let (mut node, web, client, _server) = pair(&[OPEN, CLOSED], &[]);
    let api = ApiServer::of(&node, &[&web, &client], OPEN);
    let agent = node.launch_on_a_small_disk(80 << 10, &[]);
    node.adopt_ready(agent);
    let up = "podgate_saved_world_up";
    node.await_metric(up, 1.0);

    let other = node.disk().join("other");
    let mut file = fs::File::create(&other).expect("made");
    for size in [1 << 20, 4096, 64, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    let labels: BTreeMap<String, String> = (0..1300).map(|n| (format!("label-{n}"), "x".repeat(60))).collect();
    let namespace = |n: usize, labels: &BTreeMap<String, String>| {
        api.put(NAMESPACES, json!({"metadata": {"name": format!("n{n}"), "labels": labels}}));
    };
    (0..BEYOND_MEMORY).for_each(|n| namespace(n, &labels));
    node.await_metric("podgate_saved_world_lost_changes_total", 1.0);
    (0..BEYOND_MEMORY).for_each(|n| namespace(n, &BTreeMap::new()));
    assert_eq!(node.metric(up), 0.0);

    fs::remove_file(&other).expect("removed");
    drop(file);
    // An agent waits for a quarter of a minute before it tries the disk again.
    node.agent().await_line("there is room for the last known world again");
    node.await_metric(up, 1.0);
    let (generation, bytes) = (node.generation(), node.metric("podgate_saved_world_bytes"));
    api.put_web_on(CLOSED);
    node.await_generation(generation + 1);
    node.await_metric("podgate_saved_world_bytes", bytes + 1.0);

    // The disk is there for as long as somebody has something of it open.
    let name = node.host.name().to_owned();
    let seen = fs::File::open(node.disk().join(&name)).expect("its files");
    node.kill();
    drop(api);
    let kept = node.directory().join(".state").join(&name);
    fs::create_dir_all(&kept).expect("made");
    for file in ["snapshot", "journal"] {
        let from = format!("/proc/self/fd/{}/{file}", seen.as_raw_fd());
        fs::copy(from, kept.join(file)).expect("copied");
    }
    let agent = node.launch_in_the_dark(&[]);
    node.adopt_ready(agent);
    assert_eq!(node.metric("podgate_namespaces"), BEYOND_MEMORY as f64 + 1.0);
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
        Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
    ]);
}
