//! A pod that writes another's address as its source, to itself or to a friend: what comes back to that other is no answer.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::packet::frame;
use podgate_sandbox::{DENY_WAIT, Packet, Pod, PodOptions, Probe, Server};
use socket2::{Domain, Socket, Type};

use crate::kit::{Node, nobody_reaches_hosts, pair, policy, web_closed};

const FORGED: &str = "podgate_forged_packets_total";

fn send_frame(from: &Pod, packet: &Packet) {
    let bytes = frame(from.mac().expect("one"), from.gateway_mac(), &packet.bytes());
    from.netns().send_frame("eth0", &bytes).expect("sent");
}

/// The pod's address of the other's family.
fn own(pod: &Pod, other: IpAddr) -> IpAddr {
    if other.is_ipv4() { pod.v4() } else { pod.v6() }
}

/// What the pod sends to `to` is not heard there, after a datagram that looked like one of `to`'s own to the pod.
fn is_no_answer(node: &Node, from: &Pod, to: SocketAddr, server: &Server) {
    let own = own(from, to.ip());
    let before = node.metric(FORGED);
    let socket = from.netns().run(|| UdpSocket::bind((own, 4000))).expect("bound");
    send_frame(from, &Packet::udp(to, (own, 4000).into(), b"forged"));
    node.await_metric(FORGED, before + 1.0);
    socket.send_to(b"no answer", to).expect("sent");
    let heard = server.await_arrival(DENY_WAIT, |arrival| arrival.to == to && arrival.from.ip() == own);
    assert!(heard.is_none(), "{heard:?}\n{}", node.log());
}

#[test]
fn what_a_pod_sends_itself_in_anothers_name_opens_no_way_to_that_one() {
    let (mut node, web, client, server) = pair(&[80], &[53]);
    node.write("policy.yaml", &web_closed());
    node.start(&["--loose-seconds", "0"]);
    for to in [web.v4(), web.v6()] {
        node.expect(&[Probe::closed(client.client(), to, Udp(53))]);
        is_no_answer(&node, &client, (to, 53).into(), &server);
        // The other's own packets are no forgeries.
        node.expect(&[Probe::closed(client.client(), to, Tcp(80))]);
    }
    let peer = client.server(&[81], &[54]).expect("a server");
    node.expect(&[Probe::open(web.client(), client.v4(), Tcp(81)), Probe::open(web.client(), client.v6(), Udp(54))]);
    drop(peer);
}

#[test]
fn what_a_pod_sends_itself_in_the_name_of_somebody_outside_opens_no_way_out() {
    let (mut node, _web, client, _server) = pair(&[], &[]);
    let addresses = ["203.0.113.9", "2001:db8::9"].map(|address| address.parse::<IpAddr>().expect("one"));
    let outside = node.host.outside("far", &addresses).expect("an outside");
    let server = outside.server(&[443], &[443]).expect("a server");
    let no_egress = "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}";
    node.write("policy.yaml", &policy("client", "shop", no_egress));
    node.start(&["--loose-seconds", "0"]);
    for to in addresses {
        node.expect(&[Probe::closed(client.client(), to, Udp(443))]);
        is_no_answer(&node, &client, (to, 443).into(), &server);
    }
}

#[test]
fn a_friend_who_writes_that_name_without_any_right_opens_no_way_either() {
    let (mut node, web, client, server) = pair(&[], &[8053]);
    let friend = node.pod(PodOptions::new("ops/friend"));
    node.write("policy.yaml", &web_closed());
    node.start(&["--loose-seconds", "0"]);
    let socket = client.netns().run(|| UdpSocket::bind((client.v6(), 4000))).expect("bound");
    // Any user of a pod may bind an IPv6 socket to an address that is not there.
    let forger = friend.netns().run(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_freebind_v6(true)?;
        socket.bind(&SocketAddr::from((web.v6(), 8053)).into())?;
        Ok::<UdpSocket, std::io::Error>(socket.into())
    });
    forger.expect("bound").send_to(b"forged", (client.v6(), 4000)).expect("sent");
    node.await_metric(FORGED, 1.0);
    socket.send_to(b"no answer", (web.v6(), 8053)).expect("sent");
    let heard = server.await_arrival(DENY_WAIT, |_| true);
    assert!(heard.is_none(), "{heard:?}\n{}", node.log());
}

#[test]
fn what_a_pod_sends_itself_in_its_nodes_name_opens_no_way_to_the_node() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let server = node.host.server(&[], &[53]).expect("a server");
    node.write("cluster.yaml", nobody_reaches_hosts());
    node.start(&["--loose-seconds", "0"]);
    let to = node.host.address_towards(web.v6()).expect("one");
    node.expect(&[Probe::closed(web.client(), to, Udp(53))]);
    is_no_answer(&node, &web, (to, 53).into(), &server);
}

/// A new pod whose address is known.
fn known(node: &mut Node, name: &str) -> Pod {
    let generation = node.generation();
    let pod = node.pod(PodOptions::new(name));
    node.await_generation(generation + 1);
    pod
}

#[test]
fn a_pod_whose_link_came_after_the_start_is_checked_too_and_forwards_where_that_is_set() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    node.write("policy.yaml", &web_closed());
    node.start(&["--loose-seconds", "0"]);
    let late = known(&mut node, "ops/late");
    is_no_answer(&node, &late, (web.v4(), 53).into(), &server);
    // A gateway in a pod: sources behind it are not reached over its link.
    node.stop();
    node.start(&["--loose-seconds", "0", "--source-check", "off"]);
    let listener = late.server(&[], &[54]).expect("a server");
    let behind: SocketAddr = "198.51.100.77:4000".parse().expect("one");
    let gateway = known(&mut node, "ops/gateway");
    send_frame(&gateway, &Packet::udp(behind, (late.v4(), 54).into(), b"forwarded"));
    let heard = listener.await_arrival(crate::kit::LONG, |arrival| arrival.from == behind);
    assert!(heard.is_some(), "{}", node.log());
}
