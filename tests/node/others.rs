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

pub(crate) const REPAIRS: &str = "podgate_kernel_repairs_total";
const SERVICE: &str = "10.96.0.1";
/// The node's address on its pods' links.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

/// shop/web admits shop/client on port 80 by what that pod is, not by where it seems to come from; shop/stranger it does
/// not admit.
pub(crate) fn shop() -> (Node, Pod, Pod, Pod, Server) {
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
pub(crate) fn run(node: &Node, program: &str, arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (ok, said) = node.command(program, &words);
    assert!(ok, "{program} {arguments}: {said}");
}

#[track_caller]
pub(crate) fn nft(node: &Node, rules: &str) -> String {
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
pub(crate) const KUBE_PROXY: &[&str] = &[
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
