//! What stands beside the program: connections that are remembered, and routes that go away.

#![allow(clippy::unwrap_used)]

mod kit;

use std::net::SocketAddr;

use ipnet::IpNet;
use kit::conntrack::connection;
use kit::*;
use podgate_netfilter::conntrack::{Revoked, Tracked, revoke};
use podgate_netfilter::{Cleanup, Marks, Program, ProgramSettings, RouteWatch, Update, cleanup};

const QUEUE: u16 = 6;

fn install(node: &Node, marks: Marks) -> Program {
    node.at.run(|| {
        let settings =
            ProgramSettings { marks, queues: QUEUE..=QUEUE, udp_prerouting: Some(false), ..ProgramSettings::default() };
        let mut program = Program::install(settings).unwrap_or_else(|e| panic!("{e}"));
        let ranges: [IpNet; 2] = ["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
        program.apply(&Update { ranges: Some(&ranges), ..Update::default() }).unwrap();
        program
    })
}

/// The node with three remembered connections from pod 2 to pod 3: one without room for labels, two with a label; all
/// with bits of others.
fn remembered() -> (Node, Program, Reader, [Namespace; 2]) {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    node.at.sh(
        "nft 'table inet other { chain c { type filter hook prerouting priority 0; ct mark set ct mark or 0x80; }; }'",
    );
    let client = |port| a.udp(SocketAddr::new(v4(2), port));
    let (old, server) = (client(4000), b.udp(SocketAddr::new(v4(3), 53)));
    assert!(arrives(&old, &server, SocketAddr::new(v4(3), 53), "before", SOON));
    let program = install(&node, Marks::default());
    node.at.sh("nft 'add rule inet other c ct label set 5'");
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    assert!(arrives(&old, &server, SocketAddr::new(v4(3), 53), "after", SOON));
    assert!(arrives(&client(4001), &server, SocketAddr::new(v4(3), 53), "new", SOON));
    let server = b.udp(SocketAddr::new(v6(3), 54));
    assert!(arrives(&a.udp(SocketAddr::new(v6(2), 4002)), &server, SocketAddr::new(v6(3), 54), "six", SOON));
    assert_eq!(reader.so_far().len(), 3);
    (node, program, reader, [a, b])
}

const OURS: usize = 121;
const THEIRS: usize = 5;

/// Mark and labels of the connection from `port`.
fn bits(node: &Node, port: u16) -> (u32, Option<Vec<usize>>) {
    let connection = connection(&node.at, port);
    (connection.mark, connection.labels)
}

#[test]
fn what_is_revoked_comes_up_again_and_bits_of_others_stay() {
    let (node, _program, reader, [a, b]) = remembered();
    assert_eq!(bits(&node, 4000), (0x1080, None));
    assert_eq!(bits(&node, 4001), (0x80, Some(vec![THEIRS, OURS])));
    assert_eq!(bits(&node, 4002), (0x80, Some(vec![THEIRS, OURS])));
    let mut asked = Vec::new();
    let kept = node.at.run(|| {
        revoke(&Marks::default(), &mut |tracked| {
            asked.push(*tracked);
            true
        })
    });
    assert_eq!(kept.unwrap(), Revoked { looked_at: 3, taken_back: 0 });
    asked.sort_by_key(|t| t.source_port);
    let tracked = |source, destination, source_port: u16, port: u16| Tracked {
        source,
        destination,
        protocol: 17,
        port: Some(port),
        source_port: Some(source_port),
        orientation: podgate_netfilter::Orientation::AsMet,
    };
    let expected = [tracked(v4(2), v4(3), 4000, 53), tracked(v4(2), v4(3), 4001, 53), tracked(v6(2), v6(3), 4002, 54)];
    assert_eq!(asked, expected);

    let some = node.at.run(|| revoke(&Marks::default(), &mut |tracked| tracked.destination == v6(3)).unwrap());
    assert_eq!(some, Revoked { looked_at: 3, taken_back: 2 });
    assert_eq!(bits(&node, 4000), (0x80, None));
    assert_eq!(bits(&node, 4001), (0x80, Some(vec![THEIRS])));
    assert_eq!(bits(&node, 4002), (0x80, Some(vec![THEIRS, OURS])));

    reader.say(Say::Drop);
    let server = b.udp(SocketAddr::new(v4(3), 53));
    for port in [4000, 4001] {
        let client = a.udp(SocketAddr::new(v4(2), port));
        assert!(!arrives(&client, &server, SocketAddr::new(v4(3), 53), "again", NEVER));
    }
    let server = b.udp(SocketAddr::new(v6(3), 54));
    assert!(arrives(&a.udp(SocketAddr::new(v6(2), 4002)), &server, SocketAddr::new(v6(3), 54), "kept", SOON));
    assert_eq!(reader.so_far().len(), 2);
}

#[test]
fn cleanup_takes_the_bits_off_connections() {
    let (node, _program, _reader, _pods) = remembered();
    node.at.run(|| {
        assert_eq!(cleanup().unwrap(), Cleanup { table: true, connections: 3, alive: false });
        assert_eq!(cleanup().unwrap(), Cleanup { table: false, connections: 0, alive: false });
    });
    assert_eq!(bits(&node, 4000), (0x80, None));
    for port in [4001, 4002] {
        assert_eq!(bits(&node, port), (0x80, Some(vec![THEIRS])));
    }
    assert!(!node.at.sh("nft list ruleset").contains("podgate"));
}

#[test]
fn cleanup_after_settings_of_ones_own_knows_the_bits() {
    let marks = Marks { packet: 0xf0_0000, connection: 0x2, label: 7 };
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = install(&node, marks);
    // The reader speaks with the default bits: say it with these.
    let settings = podgate_netfilter::queue::QueueSettings::new(QUEUE);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let worker = node.at.spawn(move || {
        use podgate_netfilter::queue::{Fate, MmsgQueue, Queue, Received};
        let mut queue = MmsgQueue::bind(&settings).unwrap();
        ready.send(()).unwrap();
        assert_eq!(queue.receive(Some(SOON)).unwrap(), Received::Packets(1));
        queue
            .answer(&mut |packet| Fate::Accept {
                mark: marks.remember(packet.mark, podgate_netfilter::Orientation::AsMet),
            })
            .unwrap();
    });
    is_ready.recv().unwrap();
    let (client, server) = (a.udp(SocketAddr::new(v4(2), 4000)), b.udp(SocketAddr::new(v4(3), 53)));
    assert!(arrives(&client, &server, SocketAddr::new(v4(3), 53), "1", SOON));
    worker.join().unwrap();
    assert_eq!(bits(&node, 4000), (0, Some(vec![7])));
    assert_eq!(node.at.run(cleanup).unwrap(), Cleanup { table: true, connections: 1, alive: false });
    assert_eq!(bits(&node, 4000), (0, None));
}

#[test]
fn taking_over_with_other_bits_takes_the_old_ones_off() {
    let (node, _program, _reader, _pods) = remembered();
    drop(install(&node, Marks { connection: 0x8000, ..Marks::default() }));
    assert_eq!(bits(&node, 4000), (0x80, None));
    assert_eq!(bits(&node, 4001), (0x80, Some(vec![THEIRS, OURS])), "the label is still in use");
    drop(install(&node, Marks { connection: 0x8000, label: 3, ..Marks::default() }));
    assert_eq!(bits(&node, 4001), (0x80, Some(vec![THEIRS])));
}

#[test]
fn many_connections_are_taken_back_in_one_go() {
    let node = Node::new();
    // Conntrack entries by the thousand, with our mark and one of another.
    node.at.sh("nft 'table inet other { chain c { type filter hook prerouting priority 0; ct state new; }; }'");
    let script: String = (0..5000_u32)
        .map(|i| {
            format!("-I -p udp -s 10.1.{}.{} -d 10.1.0.3 --sport 99 --dport 53 -t 600 -m 0x1081\n", i / 250, i % 250)
        })
        .collect();
    let file = format!("/proc/{}/fd/{}", std::process::id(), {
        use std::io::Write;
        use std::os::fd::IntoRawFd;
        let name = c"connections";
        let fd = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = std::fs::File::from(fd);
        file.write_all(script.as_bytes()).unwrap();
        file.into_raw_fd()
    });
    node.at.sh(&format!("conntrack --load-file {file} >/dev/null"));
    let begun = std::time::Instant::now();
    let revoked = node.at.run(|| revoke(&Marks::default(), &mut |_| false).unwrap());
    println!("looking through and taking back 5,000 connections: {:?}", begun.elapsed());
    assert_eq!(revoked, Revoked { looked_at: 5000, taken_back: 5000 });
    assert_eq!(node.at.sh("conntrack -L -m 0x1000/0x1000 2>/dev/null | wc -l").trim(), "0");
    assert_eq!(node.at.sh("conntrack -L -m 0x81 2>/dev/null | wc -l").trim(), "5000");
}

#[test]
fn addresses_of_host_routes_and_links_that_go_away_are_told() {
    let node = Node::new();
    let _pods = [node.pod(2), node.pod(3), node.pod(4)];
    let mut watch = node.at.run(|| RouteWatch::new().unwrap());
    // No pod's route, and no host route.
    node.at.sh("ip route add 10.9.0.0/24 dev veth2; ip route del 10.9.0.0/24; ip addr add 10.8.0.1/32 dev lo; ip addr del 10.8.0.1/32 dev lo");
    node.at.sh("ip route del 10.1.0.2");
    node.at.sh("ip -6 route del fd01::2");
    node.at.sh("ip route add 10.1.0.9 dev veth2; ip route add 10.1.0.9 dev veth3 table 77");
    node.at.sh("ip route del 10.1.0.9 dev veth3 table 77");
    node.at.sh("ip link set veth3 down");
    node.at.sh("ip link del veth4");
    watch.waker().wake();
    let mut told = Vec::new();
    while let gone @ [_, ..] = watch.gone().unwrap().as_slice() {
        told.extend_from_slice(gone);
    }
    told.sort_unstable();
    told.dedup();
    // The kernel keeps one to the node's own address on each link as well.
    let mut expected = vec![v4(2), v6(2), v4(9), v4(3), v6(3), v4(4), v6(4), v6(1)];
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[test]
fn a_watch_on_routes_that_lost_notices_compares() {
    let node = Node::new();
    let _pod = node.pod(2);
    let mut watch = node.at.run(|| RouteWatch::new().unwrap());
    // Far more notices than a socket holds, none of which goes away; then one that does.
    let many: String = (0..60_000_u32)
        .map(|i| format!("route replace 10.{}.{}.{}/32 dev veth2\n", 20 + i / 62_500, i / 250 % 250, i % 250))
        .collect();
    node.at.run(|| {
        use std::io::Write;
        let mut ip =
            std::process::Command::new("ip").args(["-batch", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(many.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
    });
    node.at.sh("ip route del 10.1.0.2");
    assert_eq!(watch.gone().unwrap(), [v4(2)]);
}

#[test]
fn only_a_route_that_its_links_being_down_took_away_comes_back() {
    let node = Node::new();
    let _pods = [node.pod(2), node.pod(3), node.pod(4), node.pod(5)];
    let mut watch = node.at.run(|| RouteWatch::new().unwrap());
    let flap = |link: &str| node.at.sh(&format!("ip link set {link} down; ip link set {link} up"));
    flap("veth2");
    node.at.sh("ip route add 10.1.0.2 dev veth2");
    // Taken away by itself; given to another link; back, and gone for good.
    node.at.sh("ip route del 10.1.0.3; ip route add 10.1.0.3 dev veth3");
    flap("veth4");
    node.at.sh("ip route add 10.1.0.4 dev veth3");
    flap("veth5");
    node.at.sh("ip route add 10.1.0.5 dev veth5; ip route del 10.1.0.5");
    watch.waker().wake();
    let gone = watch.gone().unwrap();
    assert!([v4(2), v4(3), v4(4), v4(5)].iter().all(|address| gone.contains(address)), "{gone:?}");
    assert_eq!(watch.back(), [v4(2)]);
}
