//! Other software on the node: service proxies, container engines, firewalls, other agents, and hands. What is theirs goes
//! on to work as it did; what they do to ours is noticed, mended and told; and no verdict depends on any of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{ArrivalKind, Client, DENY_WAIT, PATIENCE, Pod, PodOptions, Probe, Server};

use crate::kit::{LONG, Node, pair, policy};

const REPAIRS: &str = "podgate_kernel_repairs_total";
const SERVICE: &str = "10.96.0.1";
/// The node's address on its pods' links.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

/// shop/web admits shop/client on port 80 by what that pod is, not by where it seems to come from; shop/stranger it does
/// not admit.
fn shop() -> (Node, Pod, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[80, 81], &[81]);
    assert_eq!(web.v4().to_string(), "10.244.1.2", "the first pod's address");
    let spec = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], \
                ports: [{port: 80}]}]}";
    node.write("policy.yaml", &policy("web", "shop", spec));
    let stranger = node.pod(PodOptions::new("shop/stranger"));
    (node, web, client, stranger, server)
}

fn service() -> IpAddr {
    SERVICE.parse().expect("an address")
}

#[track_caller]
fn run(node: &Node, program: &str, arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (ok, said) = node.command(program, &words);
    assert!(ok, "{program} {arguments}: {said}");
}

#[track_caller]
fn nft(node: &Node, rules: &str) -> String {
    let (ok, said) = node.command("nft", &[rules]);
    assert!(ok, "{rules}: {said}");
    said
}

/// Policies hold, by the pod's own address and by the service's.
#[track_caller]
fn expect_verdicts(node: &Node, web: &Pod, client: &Pod, stranger: &Pod) {
    let probes = |to: IpAddr, port| {
        [Probe::open(client.client(), to, Tcp(port)), Probe::closed(stranger.client(), to, Tcp(port))]
    };
    node.expect(&[probes(web.v4(), 80), probes(service(), 8080)].concat());
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(81)),
        Probe::closed(client.client(), service(), Tcp(8081)),
    ]);
}

/// What arrived since as from the node itself was masqueraded: the mark that asks for it outlived the verdict.
#[track_caller]
fn expect_masqueraded(node: &Node, client: &Pod, server: &Server) {
    let before = server.arrivals().len();
    let mut connection = client.client().open(service(), 8080, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let arrivals = server.arrivals();
    // Connections that were probed before may be told late, but nothing was said on them.
    let said = arrivals[before..].iter().filter(|arrival| matches!(arrival.kind, ArrivalKind::Data(_)));
    let sources: BTreeSet<IpAddr> = said.map(|arrival| arrival.from.ip()).collect();
    assert_eq!(sources, BTreeSet::from([GATEWAY.into()]), "{arrivals:?}\n{}", node.log());
}

/// The rules that kube-proxy writes in its iptables mode for a service with one endpoint, to which all are masqueraded.
const KUBE_PROXY: &[&str] = &[
    "-t nat -N KUBE-MARK-MASQ",
    "-t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    "-t nat -N KUBE-POSTROUTING",
    "-t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    "-t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    "-t nat -A POSTROUTING -j KUBE-POSTROUTING",
    "-t nat -N KUBE-SERVICES",
    "-t nat -A PREROUTING -j KUBE-SERVICES",
    "-t nat -A OUTPUT -j KUBE-SERVICES",
    "-t nat -N KUBE-SEP",
    "-t nat -A KUBE-SEP -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.1.2:80",
    "-t nat -A KUBE-SEP -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.244.1.2:81",
    "-t nat -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-MARK-MASQ",
    "-t nat -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SEP",
    "-N KUBE-FIREWALL",
    "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
    "-A INPUT -j KUBE-FIREWALL",
    "-A OUTPUT -j KUBE-FIREWALL",
    "-N KUBE-FORWARD",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A FORWARD -j KUBE-FORWARD",
];

/// kube-proxy's nftables mode, likewise.
const KUBE_PROXY_NFT: &str = "table ip kube-proxy { \
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; \
        elements = { 10.96.0.1 . tcp . 8080 : goto endpoint-80, 10.96.0.1 . tcp . 8081 : goto endpoint-81 }; }; \
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }; \
    chain endpoint-80 { jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.2:80; }; \
    chain endpoint-81 { jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.2:81; }; \
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }; \
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }; \
    chain nat-output { type nat hook output priority -100; jump services; }; \
    chain masquerading { meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; \
        masquerade fully-random; }; \
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }; \
    chain filter-forward { type filter hook forward priority -110; ct state invalid drop; }; }";

#[test]
fn beside_kube_proxy_in_iptables_mode_services_are_judged_and_its_marks_are_kept() {
    let mut variants = 0;
    for iptables in ["iptables-nft", "iptables-legacy"] {
        let (mut node, web, client, stranger, server) = shop();
        let (usable, said) = node.command(iptables, &["-w", "-t", "nat", "-L", "-n"]);
        if !usable {
            println!("no {iptables} here: {said}");
            continue;
        }
        variants += 1;
        KUBE_PROXY.iter().for_each(|rule| run(&node, iptables, &format!("-w {rule}")));
        node.start(&[]);
        expect_verdicts(&node, &web, &client, &stranger);
        expect_masqueraded(&node, &client, &server);
        let mut connection = client.client().open(service(), 8080, PATIENCE).expect("permitted");
        connection.ping(PATIENCE).expect("permitted");

        // Theirs flushed, ours are untouched, and the other way round nobody had to mend anything.
        for flush in ["-F", "-t nat -F"] {
            run(&node, iptables, &format!("-w {flush}"));
        }
        connection.ping(PATIENCE).expect("its translation is conntrack's");
        node.expect(&[
            Probe::open(client.client(), web.v4(), Tcp(80)),
            Probe::closed(client.client(), web.v4(), Tcp(81)),
            Probe::closed(stranger.client(), web.v4(), Tcp(80)),
        ]);
        assert_eq!(node.metric(REPAIRS), 0.0, "{iptables}\n{}", node.log());
    }
    assert!(variants > 0, "no iptables at all");
}

#[test]
fn beside_kube_proxy_in_nftables_mode_services_are_judged_and_its_marks_are_kept() {
    let (mut node, web, client, stranger, server) = shop();
    node.start(&[]);
    nft(&node, KUBE_PROXY_NFT);
    expect_verdicts(&node, &web, &client, &stranger);
    expect_masqueraded(&node, &client, &server);
    assert_eq!(node.metric(REPAIRS), 0.0, "{}", node.log());
}

#[test]
fn beside_docker_both_must_agree() {
    let (mut node, web, client, stranger, _server) = shop();
    // As dockerd leaves the chain: whatever is not one of its networks' is dropped.
    for rule in [
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    ] {
        run(&node, "iptables-nft", &format!("-w {rule}"));
    }
    node.start(&[]);
    // An accept of ours brings nothing past what they drop.
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Tcp(81)),
    ]);
    for rule in ["-A FORWARD -s 10.244.0.0/16 -j ACCEPT", "-A FORWARD -d 10.244.0.0/16 -j ACCEPT"] {
        run(&node, "iptables-nft", &format!("-w {rule}"));
    }
    // Nor does an accept of theirs bring anything past us.
    let expect = || {
        node.expect(&[
            Probe::open(client.client(), web.v4(), Tcp(80)),
            Probe::closed(client.client(), web.v4(), Tcp(81)),
            Probe::closed(stranger.client(), web.v4(), Tcp(80)),
        ]);
    };
    expect();
    run(&node, "iptables-nft", "-w -P FORWARD ACCEPT");
    run(&node, "iptables-nft", "-w -F");
    run(&node, "iptables-nft", "-w -t nat -F");
    expect();
    assert_eq!(node.metric(REPAIRS), 0.0, "{}", node.log());
}

#[test]
fn tables_right_before_and_behind_ours_decide_nothing_in_our_place() {
    let (mut node, web, client, stranger, _server) = shop();
    node.start(&[]);
    nft(
        &node,
        "table inet others { \
         chain before { type filter hook postrouting priority 97; meta mark set meta mark or 0xffff0000; counter accept; }; \
         chain beside { type filter hook postrouting priority 98; accept; }; \
         chain between { type filter hook postrouting priority 99; accept; }; \
         chain behind { type filter hook postrouting priority 101; \
         meta mark and 0xffff0000 != 0xffff0000 ip daddr 10.244.0.0/16 counter name lost; \
         meta mark and 0x00003c00 != 0 ip daddr 10.244.0.0/16 counter name left; accept; }; \
         counter lost { }; counter left { }; }",
    );
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Tcp(81)),
        Probe::closed(stranger.client(), web.v4(), Tcp(80)),
    ]);
    let counters = nft(&node, "list counters table inet others");
    assert_eq!(counters.matches("packets 0 bytes 0").count(), 2, "marks were lost, or ours left over: {counters}");
    assert_eq!(node.metric(REPAIRS), 0.0, "{}", node.log());
}

/// Sends numbered datagrams where none may arrive until told to stop.
fn knock(from: &Pod, to: SocketAddr, stop: &Arc<AtomicBool>, sent: &Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
    let (stop, sent, begun) = (Arc::clone(stop), Arc::clone(sent), Instant::now());
    let work = move || {
        while !stop.load(Ordering::Relaxed) && begun.elapsed() < 3 * LONG {
            // Each from another port: none is known to conntrack, or to the kernel's memory of verdicts.
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
            let number = sent.fetch_add(1, Ordering::SeqCst);
            // What comes back as an error is the answer to an earlier one.
            let _ = socket.send_to(&number.to_be_bytes(), to);
            // The pace of a load.
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    from.netns().thread("knock", work).expect("a thread")
}

/// The numbers of what arrived, and when nothing more did.
fn leaked(server: &Server) -> BTreeSet<u64> {
    let number = |kind: &ArrivalKind| match kind {
        ArrivalKind::Datagram(bytes) => bytes.as_slice().try_into().ok().map(u64::from_be_bytes),
        _ => None,
    };
    server.arrivals().iter().filter_map(|arrival| number(&arrival.kind)).collect()
}

#[test]
fn a_firewall_that_flushes_the_ruleset_as_it_reloads_opens_the_node_for_a_moment_only() {
    let (mut node, web, client, stranger, server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let knocking = knock(&stranger, SocketAddr::new(web.v4(), 81), &stop, &sent);
    let mut windows = Vec::new();
    for round in 1..=5_u32 {
        let already = leaked(&server).len();
        let begun = Instant::now();
        // As firewalld reloads: everything, in one transaction with its own.
        nft(
            &node,
            "flush ruleset; table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; \
             ct state established,related accept; ct state invalid drop; accept; }; }",
        );
        node.await_metric(REPAIRS, f64::from(round));
        windows.push(begun.elapsed());
        // What is sent from here on must not arrive; and there must have been some of it.
        let mended = sent.load(Ordering::SeqCst);
        connection.ping(PATIENCE).expect("it goes on");
        expect_direct(&node, &web, &client, &stranger);
        let late = leaked(&server).range(mended + 1..).count();
        assert_eq!(late, 0, "arrived after the table was back\n{}", node.log());
        assert!(sent.load(Ordering::SeqCst) > mended, "the load goes on");
        println!(
            "flush {round}: told after {:?}, {} forbidden datagrams slipped in",
            windows[round as usize - 1],
            leaked(&server).len() - already
        );
    }
    stop.store(true, Ordering::Relaxed);
    knocking.join().expect("no panic");
    node.agent().await_line("somebody else changed or removed table inet podgate: it is put back");
    assert!(nft(&node, "list tables").contains("firewalld"), "theirs stays");
    windows.sort();
    // However busy the machine is, it is not so all the time.
    assert!(windows[0] < Duration::from_secs(1), "{windows:?}");
}

#[track_caller]
fn expect_direct(node: &Node, web: &Pod, client: &Pod, stranger: &Pod) {
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Tcp(81)),
        Probe::closed(stranger.client(), web.v4(), Tcp(80)),
    ]);
}

#[test]
fn what_slipped_in_while_the_rules_were_gone_does_not_stay() {
    let (mut node, web, _client, stranger, _server) = shop();
    node.start(&[]);
    // So that there is time enough.
    node.agent().stand_still();
    nft(&node, "flush ruleset");
    let opened = stranger.client().open(web.v4(), 80, PATIENCE).and_then(|mut c| c.ping(PATIENCE).map(|_| c));
    node.agent().process.signal(Signal::SIGCONT);
    let mut connection = opened.expect("nobody forbids it now");
    node.await_metric(REPAIRS, 1.0);
    assert!(connection.ping(DENY_WAIT).is_err(), "it goes on\n{}", node.log());
}

/// The handle of the first rule of a chain that has one.
fn first_rule(node: &Node, chain: &str) -> String {
    let (_, listed) = node.command("nft", &["--handle", "list", "chain", "inet", "podgate", chain]);
    let handles =
        listed.lines().filter(|line| !line.contains("chain ")).filter_map(|line| line.split_once("# handle "));
    handles.map(|(_, handle)| handle.trim().to_owned()).next().unwrap_or_else(|| panic!("no rule in {chain}: {listed}"))
}

#[test]
fn whatever_hands_do_to_the_table_is_mended_told_and_cuts_nobody() {
    let (mut node, web, client, stranger, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let set_refused = node.command("nft", &["delete set inet podgate ranges4"]);
    assert!(!set_refused.0 && set_refused.1.contains("busy"), "{set_refused:?}");

    let open_web = format!("add element inet podgate open_ingress4 {{ {} }}", web.v4());
    let handle = |chain: &str| first_rule(&node, chain);
    type Edit<'a> = (&'static str, Box<dyn Fn() -> String + 'a>);
    let edits: Vec<Edit<'_>> = vec![
        (
            "a rule deleted",
            Box::new(|| format!("delete rule inet podgate postrouting handle {}", handle("postrouting"))),
        ),
        (
            "a rule replaced",
            Box::new(|| format!("replace rule inet podgate postrouting handle {} accept", handle("postrouting"))),
        ),
        ("a rule in front", Box::new(|| "insert rule inet podgate judge accept".to_owned())),
        ("a chain flushed", Box::new(|| "flush chain inet podgate judge".to_owned())),
        ("the table's rules flushed", Box::new(|| "flush table inet podgate".to_owned())),
        (
            "a base chain deleted",
            Box::new(|| "flush chain inet podgate postrouting; delete chain inet podgate postrouting".to_owned()),
        ),
        ("a base chain's policy", Box::new(|| "chain inet podgate postrouting { policy drop; }".to_owned())),
        ("a chain renamed", Box::new(|| "rename chain inet podgate judge misjudge".to_owned())),
        ("elements added", Box::new(|| open_web.clone())),
        ("elements deleted", Box::new(|| "flush set inet podgate ranges4".to_owned())),
        ("the owner's element deleted", Box::new(|| "flush set inet podgate owner".to_owned())),
        ("the table put to sleep", Box::new(|| "add table inet podgate { flags dormant; }".to_owned())),
        ("the table deleted", Box::new(|| "delete table inet podgate".to_owned())),
    ];
    let mut repairs = 0.0;
    for (what, edit) in &edits {
        let edit = edit();
        let begun = Instant::now();
        nft(&node, &edit);
        node.await_metric(REPAIRS, repairs + 1.0);
        println!("{what}: mended and told after {:?}", begun.elapsed());
        repairs = node.metric(REPAIRS);
        connection
            .ping(PATIENCE)
            .unwrap_or_else(|e| panic!("{what} cut an established connection: {e}\n{}", node.log()));
        let closed = |client: Client, port| Probe::closed(client, web.v4(), Tcp(port));
        let probes = [
            Probe::open(client.client(), web.v4(), Tcp(80)),
            closed(client.client(), 81),
            closed(stranger.client(), 80),
        ];
        let wrong = podgate_sandbox::unexpected(&probes);
        assert!(wrong.is_empty(), "after {what}: {wrong:?}\n{}\n{}", nft(&node, "list table inet podgate"), node.log());
        assert_eq!(node.get("/readyz").0, 200, "after {what}");
    }
    // Each is told once: what the agent does to mend it is nobody else's doing.
    assert_eq!(repairs, edits.len() as f64, "{}", node.log());
    let told = node.log().matches("somebody else changed or removed table inet podgate").count();
    assert_eq!(told, edits.len(), "{}", node.log());
}

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
