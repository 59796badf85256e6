//! Connections that are there already: older than the agent, older than a policy, older than their permission's end.

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Probe};

use crate::kit::{LONG, deny_all, pair, policy};

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

fn client_to_web() -> String {
    policy(
        "client",
        "shop",
        "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: \
         {matchLabels: {app: web}}}]}]}",
    )
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
