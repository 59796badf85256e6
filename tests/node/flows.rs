//! What is no connection but goes on: datagrams, echo requests. It is cut as connections are; see `established`.

use std::net::{SocketAddr, UdpSocket};

use podgate_sandbox::{DENY_WAIT, PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kit::{pair, web_closed};

#[test]
fn an_established_flow_of_datagrams_is_cut_when_a_policy_forbids_it() {
    let (mut node, web, client, _server) = pair(&[], &[53]);
    node.start(&[]);
    for to in [web.v4(), web.v6()] {
        let own = if to.is_ipv4() { client.v4() } else { client.v6() };
        let socket = client.netns().run(|| UdpSocket::bind((own, 4000))).expect("bound");
        socket.connect((to, 53)).expect("connected");
        let asked = |wait| {
            socket.set_read_timeout(Some(wait)).expect("set");
            socket.send(b"asked").and_then(|_| socket.recv(&mut [0; 64])).is_ok()
        };
        assert!(asked(PATIENCE) && asked(PATIENCE), "permitted\n{}", node.log());
        node.apply("policy.yaml", &web_closed());
        assert!(!asked(DENY_WAIT), "{to}\n{}", node.log());
        node.remove("policy.yaml");
    }
}

#[test]
fn an_established_flow_of_echo_requests_is_cut_when_a_policy_forbids_it() {
    let (mut node, web, client, _server) = pair(&[], &[]);
    node.start(&[]);
    let socket = client.netns().run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))).expect("a socket");
    socket.connect(&SocketAddr::new(web.v4(), 0).into()).expect("connected");
    // Always the same identifier, which is what conntrack knows the flow by; the sum is of type 8 and that (RFC 792).
    let request: [u8; 8] = [8, 0, 0xf6, 0xff, 1, 0, 0, 0];
    let asked = |wait| {
        socket.set_read_timeout(Some(wait)).expect("set");
        let mut bytes = [std::mem::MaybeUninit::uninit(); 64];
        socket.send(&request).and_then(|_| socket.recv(&mut bytes)).is_ok()
    };
    assert!(asked(PATIENCE) && asked(PATIENCE), "permitted\n{}", node.log());
    node.apply("policy.yaml", &web_closed());
    assert!(!asked(DENY_WAIT), "{}", node.log());
    node.remove("policy.yaml");
    assert!(asked(PATIENCE), "permitted again\n{}", node.log());
}
