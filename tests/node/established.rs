//! Connections that are there already: older than the agent, older than a policy, older than their permission's end.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Pod, Probe};

use crate::kit::{LONG, Node, client_to_web, deny_all, pair, policy, web_closed};

fn web_from_client() -> String {
    policy(
        "web",
        "shop",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], \
         ports: [{port: 80}]}]}",
    )
}

#[test]
fn a_permitted_connection_older_than_the_agent_goes_on_when_the_client_speaks_first() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &(deny_all("shop") + &web_from_client() + &client_to_web()));
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
    node.start(&[]);
    connection.ping(PATIENCE).expect("it goes on");
    // Remembered: a second exchange does not come up any more.
    let before = node.metric("podgate_packets_total{verdict=\"accept\"}");
    connection.ping(PATIENCE).expect("it goes on");
    connection.ping(PATIENCE).expect("it goes on");
    assert_eq!(node.metric("podgate_packets_total{verdict=\"accept\"}"), before, "{}", node.log());
}

#[test]
fn a_permitted_connection_older_than_the_agent_goes_on_when_the_server_speaks_first() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &(deny_all("shop") + &web_from_client() + &client_to_web()));
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
    node.start(&[]);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert_eq!(connection.receive(LONG).expect("it arrives"), b"news", "{}", node.log());
    assert!(node.metric("podgate_startup_loose_accepts_total") >= 1.0);
    connection.ping(PATIENCE).expect("it goes on");
}

#[test]
fn a_forbidden_connection_older_than_the_agent_is_cut() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &deny_all("shop"));
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
    node.start(&[]);
    assert!(connection.ping(DENY_WAIT).is_err());
}

#[test]
fn an_established_connection_is_cut_when_a_policy_forbids_it() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    let mut connection = client.client().open(web.v6(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.apply("policy.yaml", &deny_all("shop"));
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

#[test]
fn an_established_connection_of_a_pod_that_nothing_isolated_is_cut_when_a_policy_comes() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open");
    connection.ping(PATIENCE).expect("open");
    node.apply("policy.yaml", &deny_all("shop"));
    assert!(connection.ping(DENY_WAIT).is_err());
    // And it goes on when the policy goes.
    node.remove("policy.yaml");
    connection.ping(LONG).expect("open again");
}

#[test]
fn an_established_connection_is_cut_when_its_client_loses_the_label() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    let mut other = client;
    other.options_mut().labels.insert("app".into(), "stranger".into());
    node.enforced(|| node.tell(&other));
    assert!(connection.ping(DENY_WAIT).is_err());
    node.expect(&[Probe::closed(other.client(), web.v4(), Tcp(80))]);
}

#[test]
fn one_packet_with_ttl_1_does_not_readmit_a_forbidden_connection() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let arrived = server.arrivals().len();
    node.apply("policy.yaml", &deny_all("shop"));
    // The node answers with an ICMP error, which carries the forbidden connection's conntrack entry.
    let capture = client.netns().capture(None).expect("a capture");
    connection.set_ttl(1).expect("set");
    connection.send(b"knock").expect("sent");
    let node_address = node.host.address_towards(client.v4()).expect("an address");
    let exceeded = capture.wait(LONG, |p| p.protocol() == Some(1) && p.body().first() == Some(&11));
    assert!(exceeded.is_some(), "no ICMP time exceeded from {node_address}");
    connection.set_ttl(64).expect("set");
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
    assert_eq!(server.arrivals().len(), arrived, "something arrived after it was forbidden");
}

#[test]
fn a_busy_connection_outlives_a_restart_of_the_agent() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.stop();
    connection.ping(PATIENCE).expect("accepted connections go on without an agent");
    node.start(&[]);
    connection.ping(PATIENCE).expect("and with the next one");
    node.stop();
    // Forbidden while no agent was there: the next one judges again what an earlier one accepted.
    node.write("policy.yaml", &deny_all("shop"));
    node.start(&[]);
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

/// Has so many UDP connections tracked and remembered, from one pod to the other.
fn fill_conntrack(node: &Node, from: &Pod, to: &Pod, entries: u32) {
    node.netns().sysctl("net.netfilter.nf_conntrack_udp_timeout", "600").expect("set");
    let tracked = || node.netns().read_sysctl("net.netfilter.nf_conntrack_count").expect("read");
    let tracked = || tracked().parse::<u32>().expect("a number");
    let deadline = Instant::now() + 5 * LONG;
    let ports: Vec<u16> = (1024..=60_000).collect();
    while tracked() < entries {
        assert!(Instant::now() < deadline, "{} of {entries} connections", tracked());
        let socket = from.netns().run(|| UdpSocket::bind("0.0.0.0:0").expect("bound"));
        for burst in ports.chunks(256) {
            if tracked() >= entries {
                break;
            }
            for port in burst {
                // The other pod's "port unreachable" comes back as an error of the next send.
                let _ = socket.send_to(b"x", SocketAddr::new(to.v4(), *port));
            }
            // Each look is a request, and the pace: what a full queue drops leaves no connection behind.
            node.metric("podgate_packets_total{verdict=\"accept\"}");
        }
    }
}

#[test]
fn a_large_conntrack_table_does_not_delay_a_revocation() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (entries, times) = (number("PODGATE_ENTRIES", 5_000), number("PODGATE_REVOCATIONS", 5));
    let (mut node, web, client, _server) = pair(&[80], &[]);
    let open = policy("web", "shop", "{podSelector: {matchLabels: {app: web}}, ingress: [{}]}");
    let closed = policy(
        "web",
        "shop",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: UDP, port: 1, endPort: 65535}]}]}",
    );
    node.write("policy.yaml", &open);
    node.start(&[]);
    fill_conntrack(&node, &client, &web, entries);
    let (mut cuts, mut cleaned) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
        connection.ping(PATIENCE).expect("permitted");
        let revoked = node.metric("podgate_revoked_connections_total");
        let begun = Instant::now();
        node.write("policy.yaml", &closed);
        std::thread::scope(|scope| {
            let in_order = scope.spawn(|| {
                node.await_metric("podgate_revoked_connections_total", revoked + 1.0);
                begun.elapsed()
            });
            let mut last = begun;
            while connection.ping(Duration::from_millis(150)).is_ok() {
                last = Instant::now();
                assert!(begun.elapsed() < LONG, "it goes on\n{}", node.log());
            }
            cuts.push(last - begun);
            cleaned.push(in_order.join().expect("they get in order"));
        });
        connection.reset();
        node.apply("policy.yaml", &open);
    }
    cuts.sort();
    cleaned.sort();
    let middle = cuts.len() / 2;
    println!(
        "{entries} connections, {times} revocations: cut after {:?} (median), {:?} (longest); labels in order after {:?}",
        cuts[middle],
        cuts[cuts.len() - 1],
        cleaned[middle]
    );
    assert!(cuts[middle] < Duration::from_millis(150), "{cuts:?}");
}

#[test]
fn a_connection_older_than_the_agent_whose_server_spoke_first_is_cut_when_a_policy_forbids_it() {
    for open_at_first in [false, true] {
        let (mut node, web, client, server) = pair(&[80], &[]);
        if !open_at_first {
            node.write("policy.yaml", &web_from_client());
        }
        let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
        node.start(&[]);
        server.say(connection.local().expect("bound"), b"news").expect("sent");
        assert_eq!(connection.receive(LONG).expect("it arrives"), b"news", "{}", node.log());
        connection.ping(PATIENCE).expect("it goes on");
        node.apply("policy.yaml", &web_closed());
        assert!(connection.ping(DENY_WAIT).is_err(), "open at first: {open_at_first}\n{}", node.log());
    }
}

#[test]
fn what_a_server_says_on_a_revoked_connection_that_conntrack_forgot_is_no_new_connection() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&["--loose-seconds", "0"]);
    let mut connection = client.client().open(web.v6(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.apply("policy.yaml", &web_closed());
    assert!(node.command("conntrack", &["-F"]).0);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert!(connection.receive(DENY_WAIT).is_err(), "{}", node.log());
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

#[test]
fn a_permitted_connection_that_conntrack_forgot_goes_on_and_is_cut_when_a_policy_forbids_it() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&["--loose-seconds", "0"]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    assert!(node.command("conntrack", &["-F"]).0);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert_eq!(connection.receive(LONG).expect("either way round is permitted"), b"news", "{}", node.log());
    connection.ping(PATIENCE).expect("it goes on");
    // Remembered: it does not come up any more.
    let before = node.metric("podgate_packets_total{verdict=\"accept\"}");
    connection.ping(PATIENCE).expect("it goes on");
    assert_eq!(node.metric("podgate_packets_total{verdict=\"accept\"}"), before, "{}", node.log());
    let revoked = node.metric("podgate_revoked_connections_total");
    node.apply("policy.yaml", &web_closed());
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
    node.await_metric("podgate_revoked_connections_total", revoked + 1.0);
}

#[test]
fn a_permitted_connection_between_isolated_pods_that_conntrack_forgot_goes_on_when_its_client_speaks() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &(deny_all("shop") + &web_from_client() + &client_to_web()));
    node.start(&["--loose-seconds", "0"]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    assert!(node.command("conntrack", &["-F"]).0);
    connection.ping(PATIENCE).expect("the ports tell that it is the client's");
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert_eq!(connection.receive(LONG).expect("it arrives"), b"news", "{}", node.log());
}

#[test]
fn a_connection_met_in_the_start_up_period_outlives_a_restart_by_the_orientation_that_is_permitted() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &(deny_all("shop") + &web_from_client() + &client_to_web()));
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
    node.start(&[]);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert_eq!(connection.receive(LONG).expect("it arrives"), b"news", "{}", node.log());
    node.stop();
    node.start(&["--loose-seconds", "0"]);
    connection.ping(PATIENCE).expect("it goes on");
    server.say(connection.local().expect("bound"), b"more").expect("sent");
    assert_eq!(connection.receive(LONG).expect("it arrives"), b"more", "{}", node.log());
    node.apply("policy.yaml", &deny_all("shop"));
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

/// Opens a connection that a policy permits, makes a change, and expects the connection to be cut.
fn is_cut_by(policy_spec: &str, change: impl FnOnce(&Node, &Pod)) {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("namespace.yaml", &namespace("a"));
    node.write("policy.yaml", &policy("web", "shop", policy_spec));
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    change(&node, &client);
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

fn namespace(team: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{team: {team}}}}}\n")
}

const FROM_CLIENT: &str =
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}";

#[test]
fn an_established_connection_is_cut_when_its_clients_namespace_loses_the_label() {
    let from_team =
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}";
    is_cut_by(from_team, |node, _| node.apply("namespace.yaml", &namespace("b")));
}

#[test]
fn an_established_connection_is_cut_when_its_client_is_no_more() {
    is_cut_by(FROM_CLIENT, |node, client| node.remove(&crate::kit::pod_file(client)));
}

#[test]
fn an_established_connection_is_cut_when_its_clients_address_becomes_another_pods() {
    is_cut_by(FROM_CLIENT, |node, client| {
        let manifest = client.manifest().replace("name: client", "name: other").replace("\"client\"", "\"other\"");
        std::fs::remove_file(node.directory().join(crate::kit::pod_file(client))).expect("removed");
        node.apply("pod-other.yaml", &manifest);
    });
}

#[test]
fn a_change_about_others_has_no_packet_of_a_connection_judged_again() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    let other = node.pod(podgate_sandbox::PodOptions::new("shop/other").label("app", "other"));
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let up =
        || ["accept", "drop"].map(|verdict| node.metric(&format!("podgate_packets_total{{verdict=\"{verdict}\"}}")));
    let before = up();
    node.apply("other.yaml", &policy("other", "shop", "{podSelector: {matchLabels: {app: other}}}"));
    connection.ping(PATIENCE).expect("it goes on");
    assert_eq!(up(), before, "{}", node.log());
    node.expect(&[Probe::closed(client.client(), other.v4(), Tcp(80))]);
}

#[test]
fn a_connection_that_is_begun_while_no_agent_is_there_opens_with_a_syn_after_the_next_one_came() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_from_client());
    node.start(&[]);
    node.stop();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.client().connect(web.v4(), 80, LONG));
        let sent = || client.netns().run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").expect("read"));
        // State 02: the first SYN is out.
        let deadline = Instant::now() + LONG;
        while !sent().lines().any(|line| line.split_whitespace().nth(3) == Some("02")) {
            assert!(Instant::now() < deadline, "no SYN is sent");
        }
        node.start(&[]);
        assert!(waits.join().expect("it ends").is_open(), "{}", node.log());
    });
}
