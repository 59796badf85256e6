//! Packets that are not like others: fragments, forged neighbour discovery, ICMP errors, segments that nobody asked for.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use podgate_sandbox::ProbeKind::{Echo, Udp};
use podgate_sandbox::{ArrivalKind, Capture, Packet, Pod, PodOptions, Probe, Server};

use crate::kernels::release;
use crate::kit::{LONG, Node, deny_all, pair, policy, web_on};

/// Only UDP 53 is open.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[80], &[53, 54]);
    node.write("policy.yaml", &web_on("UDP", 53));
    (node, web, client, server)
}

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("{address} is no IPv6 address"),
    }
}

#[test]
fn fragments_are_judged_by_the_port_in_their_first_one() {
    let (mut node, web, client, server) = shop();
    node.start(&[]);
    let text = vec![b'x'; 3000];
    for (source, destination) in [(client.v4(), web.v4()), (client.v6(), web.v6())] {
        // Forbidden port first: if it came through, it would be there before the permitted one.
        for port in [54, 53] {
            let whole = Packet::udp((source, 4000 + port).into(), (destination, port).into(), &text)
                .identification(port.into());
            for fragment in whole.fragments(1200) {
                client.netns().send_ip(destination, &fragment).expect("sent");
            }
        }
        let whole = ArrivalKind::Datagram(text.clone());
        let arrival = server.await_arrival(LONG, |a| a.from.ip() == source && a.kind == whole);
        let arrival = arrival.unwrap_or_else(|| panic!("no fragmented datagram from {source}\n{}", node.log()));
        assert_eq!(arrival.to.port(), 53);
    }
    assert!(server.arrivals().iter().all(|a| a.to.port() != 54), "{:?}", server.arrivals());
}

#[test]
fn a_forged_neighbour_solicitation_from_afar_is_no_way_in() {
    let (mut node, web, client, _server) = shop();
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    let capture = web.netns().capture(None).expect("a capture");
    let (source, destination) = (v6(client.v6()), v6(web.v6()));
    // Type 133 to 137, from a pod, routed: its hop limit is below 255 when it comes out.
    for kind in 133..=137u8 {
        let body = Packet::icmp(source.into(), destination.into(), kind, 0, b"\0\0\0\0secret");
        client.netns().send(&body.ttl(255)).expect("sent");
    }
    let solicitation = Packet::neighbour_solicitation(source, destination, destination, [2, 0, 0, 0, 0, 1]);
    client.netns().send(&solicitation.ttl(255)).expect("sent");
    node.expect(&[Probe::open(node.netns().client(), web.v6(), Echo)]);
    let leaked = capture.wait(Duration::from_millis(1), |p| {
        p.ends() == Some((source.into(), destination.into())) && p.protocol() == Some(58)
    });
    assert!(leaked.is_none(), "neighbour discovery from afar arrived: {leaked:?}");
}

/// Of listener reports, discovery from beyond the link, router discovery of RFC 4286: those that conntrack leaves out on
/// every kernel, and those that it calls invalid before Linux 6.10 (`noct_valid_new` in nf_conntrack_proto_icmpv6.c).
const LEFT_OUT: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];
const LEFT_OUT_OR_INVALID: [u8; 2] = [151, 152];

/// Sends one of each.
fn send_left_out(from: &Pod, to: &Pod) {
    for kind in LEFT_OUT.into_iter().chain(LEFT_OUT_OR_INVALID) {
        from.netns().send(&Packet::icmp(from.v6(), to.v6(), kind, 0, b"\0\0\0\0secret")).expect("sent");
    }
}

/// Waits for ICMPv6 packets of these types.
fn arrive(capture: &Capture, from: &Pod, to: &Pod, kinds: &[u8]) -> bool {
    let mut missing = kinds.to_vec();
    let found = capture.wait(LONG, |p| {
        if !p.outgoing && p.ends() == Some((from.v6(), to.v6())) && p.protocol() == Some(58) {
            missing.retain(|kind| *kind != p.body()[0]);
        }
        missing.is_empty()
    });
    found.is_some()
}

/// Packets that the kernel dropped by itself because conntrack calls them invalid.
fn invalid(node: &Node) -> f64 {
    let listed = node.command("nft", &["list", "chain", "inet", "podgate", "drop_invalid"]).1;
    let count = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter: {listed}"))
}

#[test]
fn icmpv6_that_conntrack_leaves_out_is_judged_as_sent_where_one_end_is_isolated() {
    let (mut node, web, client, _server) = shop();
    let other = node.pod(PodOptions::new("shop/other"));
    node.start(&[]);
    let [at_web, at_client, at_other] =
        [&web, &client, &other].map(|pod| pod.netns().capture(None).expect("a capture"));
    send_left_out(&client, &web);
    // Each is accounted for: judged and denied, or invalid, which is dropped unseen as web is isolated.
    let all = (LEFT_OUT.len() + LEFT_OUT_OR_INVALID.len()) as f64;
    let deadline = Instant::now() + LONG;
    let (denied, dropped) = loop {
        let now = (node.metric("podgate_packets_total{verdict=\"drop\"}"), invalid(&node));
        if now.0 + now.1 >= all {
            break now;
        }
        assert!(Instant::now() < deadline, "{now:?}\n{}", node.log());
    };
    let called_invalid = if release() < (6, 10) { all - denied } else { 0.0 };
    assert!([0.0, LEFT_OUT_OR_INVALID.len() as f64].contains(&called_invalid), "{denied} denied");
    assert_eq!((denied + dropped, dropped), (all, called_invalid));
    // What is permitted comes, after them.
    node.expect(&[Probe::open(client.client(), web.v6(), Udp(53))]);
    let leaked = at_web.wait(Duration::from_millis(1), |p| {
        p.ends() == Some((client.v6(), web.v6())) && p.protocol() == Some(58) && p.body()[0] >= 130
    });
    assert!(leaked.is_none(), "{leaked:?}");

    // What web sends nothing forbids: it is nobody's answer. Not so what is invalid: it may be either's.
    send_left_out(&web, &client);
    let mut permitted = LEFT_OUT.to_vec();
    permitted.extend(LEFT_OUT_OR_INVALID.into_iter().filter(|_| called_invalid == 0.0));
    assert!(arrive(&at_client, &web, &client, &permitted), "{}", node.log());
    // And where nobody is isolated, all of it passes.
    send_left_out(&client, &other);
    assert!(arrive(&at_other, &client, &other, &[&LEFT_OUT[..], &LEFT_OUT_OR_INVALID[..]].concat()), "{}", node.log());
}

#[test]
fn icmp_errors_about_a_permitted_connection_get_back_and_others_do_not() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    // Nobody listens on the client's port 9: web's answer there is refused by ICMP; the other way round likewise.
    let open = policy(
        "any",
        "shop",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: UDP, port: 9}]}]}",
    );
    node.apply("more.yaml", &open);
    let socket = client.client().datagrams(web.v4(), 9).expect("a socket");
    socket.set_read_timeout(Some(LONG)).expect("set");
    socket.send(b"anybody?").expect("sent");
    let error = socket.recv(&mut [0; 16]).expect_err("nobody listens there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}\n{}", node.log());
    // An error about a connection that never was is invalid: dropped, as web is isolated.
    let capture = web.netns().capture(None).expect("a capture");
    let never = Packet::udp((web.v4(), 999).into(), (client.v4(), 999).into(), b"never sent");
    client.netns().send(&Packet::port_unreachable(client.v4(), &never)).expect("sent");
    node.expect(&[Probe::open(client.client(), web.v4(), Udp(53))]);
    let leaked = capture
        .wait(Duration::from_millis(1), |p| p.protocol() == Some(1) && p.ends() == Some((client.v4(), web.v4())));
    assert!(leaked.is_none(), "{leaked:?}");
}

#[test]
fn an_untracked_datagram_is_judged_both_ways_and_never_remembered() {
    let (mut node, web, client, _server) = shop();
    let rules = "table inet raw { chain prerouting { type filter hook prerouting priority raw; udp sport { 53, 54 } notrack; udp dport { 53, 54 } notrack; }; }";
    let (ok, said) = node.command("nft", &[rules]);
    assert!(ok, "{said}");
    node.start(&[]);
    node.expect(&[
        Probe::open(client.client(), web.v4(), Udp(53)),
        Probe::open(client.client(), web.v6(), Udp(53)),
        Probe::closed(client.client(), web.v4(), Udp(54)),
    ]);
    assert!(node.metric("podgate_untracked_packets_total") >= 2.0);
}
