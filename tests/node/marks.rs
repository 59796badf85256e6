//! Others' rules that use bits of marks and labels that are ours: told, and only they; and what they come to.

use std::time::Instant;

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Probe};

use crate::kit::{LONG, Node, policy};
use crate::others::{KUBE_PROXY, REPAIRS, nft, run, shop};

/// Waits until a number of chains is told that use bits of ours. Each look is a request, and the pace.
#[track_caller]
fn await_collisions(node: &Node, wanted: usize) {
    let deadline = Instant::now() + LONG;
    while node.metric("podgate_mark_collisions") != wanted as f64 {
        assert!(Instant::now() < deadline, "not {wanted}: {}\n{}", node.get("/readyz").1, node.log());
        std::thread::yield_now();
    }
}

#[test]
fn whoever_else_uses_our_bits_of_marks_and_labels_is_told_and_nobody_who_does_not() {
    let (mut node, ..) = shop();
    // Standing before the agent comes.
    KUBE_PROXY.iter().for_each(|rule| run(&node, "iptables-nft", &format!("-w {rule}")));
    run(&node, "iptables-nft", "-w -t mangle -A PREROUTING -j MARK --or-mark 0x400");
    node.start(&[]);
    await_collisions(&node, 1);
    let told = node.agent().await_line("table ip mangle, chain PREROUTING, uses packet mark bits 0x400");
    assert!(told.contains("WARN") && told.contains("--mark-mask"), "{told}");
    let said = node.get("/readyz");
    assert!(said.0 == 200 && said.1.contains("marks collide: table ip mangle"), "{said:?}");

    let uses = [
        ("meta mark set meta mark or 0x2000", Some("packet mark bits 0x2000")),
        ("meta mark set meta mark and 0xfffffbff", Some("packet mark bits 0x400")),
        ("meta mark set 0x1800", Some("packet mark bits 0x1800")),
        ("meta mark and 0xff00 == 0x100 accept", Some("packet mark bits 0x3c00")),
        ("meta mark 0x801 accept", Some("packet mark bits 0x800")),
        ("ct mark set ct mark or 0x1000", Some("connection mark bit 0x1000")),
        ("ct mark and 0x3000 != 0 accept", Some("connection mark bit 0x1000")),
        ("ct label set 121", Some("connection label 121")),
        ("ct label 121 accept", Some("connection label 121")),
        ("meta mark set meta mark or 0xffff4000", None),
        ("meta mark and 0x4000 == 0 return", None),
        ("meta mark 0x8001 accept", None),
        ("meta mark set 0x1", None),
        ("meta mark set ct mark", None),
        ("ct mark set 0x80", None),
        ("ct mark and 0x111 == 0x111 accept", None),
        ("ct label set 12", None),
        ("meta priority set 0x2400", None),
        ("ip dscp set 0x3c", None),
        // Numbers that are nobody's marks.
        ("meta mark 0x1 ip saddr 10.60.0.1 accept", None),
        ("meta mark 0x1 ip saddr vmap @addresses", None),
        ("ip saddr 10.60.0.1 meta mark set meta mark or 0x1", None),
        // From and by maps and sets.
        ("meta mark set ip saddr map @marks", Some("packet mark bits 0xc00")),
        ("meta mark set ip saddr map { 10.0.0.1 : 0x2, 10.0.0.2 : 0x8003 }", None),
        ("ct mark set ip saddr map { 10.0.0.1 : 0x1001 }", Some("connection mark bit 0x1000")),
        ("meta mark { 0x1, 0x2000 } accept", Some("packet mark bits 0x2000")),
        ("meta mark & 0xff0000 vmap { 0x10000 : accept, 0x20000 : drop }", None),
        ("meta mark & 0x700 vmap { 0x400 : accept }", Some("packet mark bits 0x400")),
        ("meta mark vmap { 0x1 : accept, 0x2 : drop }", None),
        ("meta mark set numgen inc mod 4 offset 0x3fe", Some("packet mark bits 0x400")),
        ("meta mark set numgen random mod 4 offset 0x10", None),
    ];
    let chains: String = uses.iter().enumerate().map(|(n, (rule, _))| format!("chain c{n} {{ {rule}; }}; ")).collect();
    let maps = "map marks { type ipv4_addr : mark; elements = { 10.0.0.1 : 0x401, 10.0.0.2 : 0x800 }; }; \
        map addresses { type ipv4_addr : verdict; elements = { 10.60.0.1 : accept }; };";
    nft(&node, &format!("table inet others {{ {maps} {chains} }}"));
    let extensions = [
        ("-m mark --mark 0x800/0x800 -j CONNMARK --save-mark --mask 0xf000", "packet mark bits 0x3800"),
        ("-m connmark --mark 0x1000/0x1000", "connection mark bit 0x1000"),
        ("-j CONNMARK --set-xmark 0x1000/0x1000", "connection mark bit 0x1000"),
    ];
    for (n, (rule, _)) in extensions.iter().enumerate() {
        run(&node, "iptables-nft", &format!("-w -t raw -N x{n}"));
        run(&node, "iptables-nft", &format!("-w -t raw -A x{n} {rule}"));
    }
    let expected = uses.iter().filter(|(_, told)| told.is_some()).count();
    // The first of the extensions uses bits of both kinds.
    await_collisions(&node, 1 + expected + extensions.len() + 1);
    let log = node.log();
    for (n, (rule, told)) in uses.iter().enumerate() {
        let line = log.lines().find(|line| line.contains(&format!("table inet others, chain c{n}, uses")));
        assert_eq!(line.is_some(), told.is_some(), "{rule}: {line:?}");
        assert!(
            told.is_none_or(|told| line.is_some_and(|line| line.contains(&format!("{told},")))),
            "{rule}: {line:?}"
        );
    }
    for (n, (rule, told)) in extensions.iter().enumerate() {
        assert!(log.contains(&format!("table ip raw, chain x{n}, uses {told},")), "{rule}\n{log}");
    }

    // Gone, it is told no more.
    nft(&node, "delete table inet others");
    run(&node, "iptables-nft", "-w -t mangle -F");
    run(&node, "iptables-nft", "-w -t raw -F");
    await_collisions(&node, 0);
    assert!(!node.get("/readyz").1.contains("collide"));
    assert_eq!(node.metric(REPAIRS), 0.0, "{}", node.log());
}

#[test]
fn whole_marks_that_are_saved_or_overwritten_where_they_have_our_bits_are_told() {
    let (mut node, web, _client, _stranger, _server) = shop();
    node.start(&[]);
    await_collisions(&node, 0);
    let chains = [
        // The node's own packets have a bit of ours from output on.
        ("type filter hook postrouting priority mangle; meta mark != 0 ct mark set meta mark;", Some("saves")),
        ("type filter hook postrouting priority 98; ip saddr 192.0.2.1 jump saver;", None),
        ("type filter hook output priority 1; meta mark set 0x1;", Some("overwrites")),
        ("type filter hook postrouting priority mangle; ip saddr 192.0.2.1 meta mark set ct mark;", Some("overwrites")),
        // Where they have none, or whose number is known.
        ("type filter hook postrouting priority 101; ct mark set meta mark;", None),
        ("type filter hook output priority mangle; meta mark set 0x1;", None),
        ("type filter hook prerouting priority mangle; meta mark set ct mark;", None),
        ("type filter hook prerouting priority mangle; ct mark set meta mark;", None),
        ("type filter hook forward priority mangle; ct mark set meta mark;", None),
        ("type filter hook postrouting priority mangle; meta mark 0x51 ct mark set meta mark;", None),
        ("type filter hook postrouting priority mangle; meta mark set meta mark or 0x1;", None),
        ("ct mark set meta mark;", None),
    ];
    let text: String = chains.iter().enumerate().map(|(n, (chain, _))| format!("chain c{n} {{ {chain} }}; ")).collect();
    nft(&node, &format!("table ip others {{ chain saver {{ ct mark set meta mark; }}; {text} }}"));
    run(&node, "iptables-nft", "-w -t mangle -A POSTROUTING -s 192.0.2.1 -j CONNMARK --save-mark");
    run(&node, "iptables-nft", "-w -t mangle -A PREROUTING -j CONNMARK --restore-mark");
    run(&node, "iptables-nft", "-w -t mangle -A OUTPUT -j MARK --set-mark 0x1");
    let expected = chains.iter().filter(|(_, told)| told.is_some()).count();
    // And what a jump leads to, and the extension's.
    await_collisions(&node, expected + 2);
    let log = node.log();
    for (n, (chain, told)) in chains.iter().enumerate() {
        let line = log.lines().find(|line| line.contains(&format!("table ip others, chain c{n}, ")));
        let said = told.map(|told| format!("{told} whole packet marks, podgate's bits with them"));
        assert_eq!(line.is_some(), told.is_some(), "{chain}: {line:?}\n{log}");
        assert!(said.is_none_or(|said| line.is_some_and(|line| line.contains(&said))), "{chain}: {line:?}");
    }
    for chain in ["table ip mangle, chain POSTROUTING", "table ip others, chain saver"] {
        assert!(log.contains(&format!("{chain}, saves whole packet marks")), "{log}");
    }
    // As is told: what the node itself sends is not known as that any more.
    node.expect(&[Probe::closed(node.netns().client(), web.v4(), Tcp(81))]);
    nft(&node, "delete table ip others");
    run(&node, "iptables-nft", "-w -t mangle -F");
    await_collisions(&node, 0);
    node.expect(&[Probe::open(node.netns().client(), web.v4(), Tcp(81))]);
}

fn legacy(node: &Node, command: &str, rules: &[&str]) {
    rules.iter().for_each(|rule| run(node, command, &format!("-w {rule}")));
}

#[test]
fn rules_of_iptables_legacy_that_use_our_bits_are_told_and_others_are_not() {
    let (mut node, ..) = shop();
    // kube-proxy's, which use none.
    legacy(&node, "iptables-legacy", KUBE_PROXY);
    legacy(
        &node,
        "iptables-legacy",
        &[
            "-t mangle -N marks",
            "-t mangle -A marks -p tcp -m tcp --dport 80 -m comment --comment x -j MARK --set-xmark 0x400/0x400",
            "-t mangle -A PREROUTING -j marks",
            "-t mangle -A PREROUTING -m mark --mark 0x80/0x80 -j ACCEPT",
            "-t mangle -A POSTROUTING -j CONNMARK --save-mark",
            "-t mangle -A PREROUTING -j CONNMARK --restore-mark",
        ],
    );
    legacy(
        &node,
        "ip6tables-legacy",
        &[
            "-t raw -A OUTPUT -m mark --mark 0x2000/0x2000 -j ACCEPT",
            "-t mangle -N saver",
            "-t mangle -A saver -s 2001:db8::1 -j CONNMARK --save-mark",
            "-t mangle -A POSTROUTING -d 2001:db8::2 -j saver",
            "-A FORWARD -m connmark --mark 0x1000/0x1000 -j ACCEPT",
            "-A FORWARD -m connmark --mark 0x80/0x80 -j ACCEPT",
        ],
    );
    node.start(&[]);
    await_collisions(&node, 5);
    for told in [
        "table iptables-legacy mangle, chain marks, uses packet mark bits 0x400",
        "table iptables-legacy mangle, chain POSTROUTING, saves whole packet marks",
        "table ip6tables-legacy raw, chain OUTPUT, uses packet mark bits 0x2000",
        "table ip6tables-legacy mangle, chain saver, saves whole packet marks",
        "table ip6tables-legacy filter, chain FORWARD, uses connection mark bit 0x1000",
    ] {
        node.agent().await_line(told);
    }
    // Nobody tells of changes: they are looked for.
    legacy(&node, "iptables-legacy", &["-t mangle -F"]);
    legacy(&node, "ip6tables-legacy", &["-t mangle -F", "-t raw -F"]);
    await_collisions(&node, 1);
    legacy(&node, "iptables-legacy", &["-t mangle -A OUTPUT -j MARK --or-mark 0x800"]);
    node.agent().await_line("table iptables-legacy mangle, chain OUTPUT, uses packet mark bits 0x800");
}

#[test]
fn marks_that_are_saved_and_restored_as_a_whole_open_nothing() {
    let (mut node, web, client, _stranger, _server) = shop();
    nft(
        &node,
        "table inet others { chain save { type filter hook postrouting priority mangle; ct mark set meta mark; }; \
         chain restore { type filter hook prerouting priority mangle; meta mark set ct mark; }; }",
    );
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    // The node's own error about the connection carries its conntrack entry, and so its mark is saved there.
    let capture = client.netns().capture(None).expect("a capture");
    connection.set_ttl(1).expect("set");
    connection.send(b"knock").expect("sent");
    let exceeded = capture.wait(LONG, |p| p.protocol() == Some(1) && p.body().first() == Some(&11));
    assert!(exceeded.is_some(), "no ICMP time exceeded");
    connection.set_ttl(64).expect("set");
    connection.ping(PATIENCE).expect("permitted");
    node.apply("policy.yaml", &policy("web", "shop", "{podSelector: {}}"));
    assert!(connection.ping(DENY_WAIT).is_err(), "it goes on\n{}", node.log());
    // Nor does any of our bits on what is forwarded, and the node's own goes on. (Saved, one is the bit of a permission.)
    nft(&node, "flush chain inet others save");
    for mark in (1..16).map(|mark| mark << 10) {
        nft(&node, &format!("flush chain inet others restore; add rule inet others restore meta mark set {mark:#x}"));
        node.expect(&[
            Probe::closed(client.client(), web.v4(), Tcp(80)),
            Probe::closed(client.client(), web.v6(), Tcp(80)),
            Probe::open(node.netns().client(), web.v4(), Tcp(80)),
        ]);
    }
}
