//! How packets come up: by the expression that this kernel has, and UDP where two datagrams of one socket survive.

use std::net::{IpAddr, UdpSocket};

use nix::sys::signal::Signal;
use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::{PATIENCE, PodOptions, Probe};

use super::{has, release};
use crate::kit::{Node, pair, policy, web_on};

const PORTS: std::ops::Range<u16> = 5300..5308;

/// Whether this kernel takes the expression `queue`: asked of the kernel by `nft`, not of the agent.
fn takes_native(node: &Node) -> Result<(), String> {
    let rules =
        "add table inet asked; add chain inet asked c; add rule inet asked c queue num 0; delete table inet asked";
    let (ok, said) = node.command("nft", &[rules]);
    if ok { Ok(()) } else { Err(said.lines().next().unwrap_or("refused").to_owned()) }
}

#[test]
fn the_native_expression_is_used_where_the_kernel_has_it() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[53]);
    if !has("queue", takes_native(&node)) {
        return;
    }
    node.write("policy.yaml", &web_on("TCP", 80));
    node.start(&["--queues", "2"]);
    let said = node.agent().await_line("starting");
    assert!(said.contains("queue=\"nft_queue\""), "{said}");
    let (ok, table) = node.command("nft", &["list", "table", "inet", "podgate"]);
    assert!(ok && table.contains("queue to ") && !table.contains("NFQUEUE"), "{table}");
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Tcp(81)),
        Probe::closed(client.client(), web.v4(), Udp(53)),
        Probe::open(client.client(), web.v6(), Tcp(80)),
        Probe::closed(client.client(), web.v6(), Tcp(81)),
    ]);
    // Failing open is a flag of that expression.
    node.stop();
    node.start(&["--queues", "2", "--fail-open"]);
    let table = node.command("nft", &["list", "table", "inet", "podgate"]).1;
    assert!(table.contains("bypass"), "{table}");
    node.kill();
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(81))]);
}

/// A resolver asks for A and AAAA from one socket, one right after the other. Both wait for a verdict, and neither may
/// lose conntrack's race for the connection: on every kernel, wherever it has UDP judged.
#[test]
fn two_datagrams_of_one_socket_that_wait_together_both_arrive() {
    let ports: Vec<u16> = PORTS.collect();
    let (mut node, web, client, _server) = pair(&[], &ports);
    let other = node.pod(PodOptions::new("shop/web2").label("app", "web"));
    let _other = other.server(&[], &ports).expect("a server");
    // Of the two datagrams each is sent to another pod at first, as a service proxy does it.
    let dnat = format!(
        "table ip services {{ chain prerouting {{ type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 \
         udp dport 5300-5308 dnat to numgen inc mod 2 map {{ 0 : {}, 1 : {} }}; }}; }}",
        web.v4(),
        other.v4()
    );
    let (ok, said) = node.command("nft", &[&dnat]);
    assert!(ok, "{said}");
    let spec =
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: UDP, port: 5300, endPort: 5308}]}]}";
    node.write("policy.yaml", &policy("web", "shop", spec));
    node.start(&[]);
    let chains = node.command("nft", &["list", "chains"]).1;
    assert_eq!(chains.contains("prerouting_udp"), release() < (6, 12), "{:?} {chains}", release());
    let service: IpAddr = "10.96.0.10".parse().expect("an address");
    // Routes and neighbours are known by then: nothing but the verdict is waited for. This port is the warm-up's alone.
    let warm: Vec<_> = [web.v4(), web.v6(), other.v4()].map(|to| Probe::open(client.client(), to, Udp(5300))).into();
    node.expect(&warm);
    let sockets: Vec<(String, UdpSocket)> = [web.v4(), web.v6(), service]
        .into_iter()
        .flat_map(|to| PORTS.skip(1).map(move |port| (to, port)))
        .map(|(to, port)| {
            let socket = client.client().datagrams(to, port).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            (format!("{to} {port}"), socket)
        })
        .collect();
    // While the agent stands still, whatever is sent waits.
    let waiting = || node.command("cat", &["/proc/self/net/netfilter/nfnetlink_queue"]).1;
    node.agent().stand_still();
    for (_, socket) in &sockets {
        socket.send(b"A").expect("sent");
        socket.send(b"AAAA").expect("sent");
    }
    let queued: usize = waiting().lines().filter_map(|l| l.split_whitespace().nth(2)?.parse::<usize>().ok()).sum();
    node.agent().process.signal(Signal::SIGCONT);
    // A worker may have had a few in its hands.
    assert!(queued >= sockets.len(), "{queued} wait: {}", waiting());
    for (name, socket) in &sockets {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut buffer = [0; 16];
            match socket.recv(&mut buffer) {
                Ok(length) => answers.push(buffer[..length].to_vec()),
                Err(error) => panic!("{name}: {error}; came: {answers:?}\n{}", node.log()),
            }
        }
        answers.sort();
        assert_eq!(answers, [b"A".to_vec(), b"AAAA".to_vec()], "{name}");
    }
}
