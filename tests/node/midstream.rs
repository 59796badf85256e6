//! Connections that conntrack meets mid-stream: what is permitted of them goes on through changes, what is forbidden does not,
//! whoever speaks first. Those that a policy cuts are in `established`.

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, PodOptions, Probe};

use crate::kit::{LONG, Node, client_to_web, deny_all, nobody_reaches_hosts, pair, policy, web_closed};

/// shop/web, isolated, lets shop/client in at port 80 and at `more`.
fn web_from_client(more: u16) -> String {
    let spec = format!(
        "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: client}}}}}}], \
         ports: [{{port: 80}}, {{port: {more}}}]}}]}}"
    );
    policy("web", "shop", &spec)
}

#[test]
fn changes_that_take_nothing_from_a_permitted_connection_cost_it_no_packet() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    let policies = |more| deny_all("shop") + &web_from_client(more) + &client_to_web();
    node.write("policy.yaml", &policies(1000));
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("open without an agent");
    // A packet that is denied is answered with a reset, which it would not outlive.
    node.start(&["--loose-seconds", "0", "--on-deny", "reject"]);
    connection.ping(PATIENCE).expect("the ports tell that it is the client's");
    let peer = connection.local().expect("bound");
    let dropped = node.metric("podgate_packets_total{verdict=\"drop\"}");
    for more in 1001..1031 {
        let generation = node.generation();
        node.write("policy.yaml", &policies(more));
        // Its labels do not count for a moment, in which the server speaks.
        while node.generation() == generation {
            server.say(peer, b"n").expect("it is not reset");
        }
        server.say(peer, b"n").expect("it is not reset");
    }
    connection.ping(LONG).expect("it goes on");
    assert_eq!(node.metric("podgate_packets_total{verdict=\"drop\"}"), dropped, "{}", node.log());
    node.apply("policy.yaml", &deny_all("shop"));
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}

#[test]
fn a_forbidden_connection_older_than_the_agent_does_not_go_on_because_its_server_speaks_first() {
    let (mut node, web, client, server) = pair(&[80], &[]);
    node.write("policy.yaml", &web_closed());
    let mut connection = client.client().open(web.v6(), 80, PATIENCE).expect("open without an agent");
    // In the start-up period, where either way round is enough.
    node.start(&[]);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert!(connection.receive(DENY_WAIT).is_err(), "{}", node.log());
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
    // What it begins itself passes.
    let peer = client.server(&[90], &[]).expect("a server");
    node.expect(&[Probe::open(web.client(), client.v6(), Tcp(90))]);
    drop(peer);
}

#[test]
fn a_revoked_connection_to_its_own_node_is_not_admitted_again_by_what_the_node_says() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let server = node.host.server(&[9100], &[]).expect("a server");
    node.start(&["--loose-seconds", "0"]);
    let to = node.host.address_towards(web.v4()).expect("one");
    let mut connection = web.client().open(to, 9100, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.apply("cluster.yaml", nobody_reaches_hosts());
    assert!(node.command("conntrack", &["-F"]).0);
    server.say(connection.local().expect("bound"), b"news").expect("sent");
    assert_eq!(connection.receive(LONG).expect("a node reaches its pods"), b"news", "{}", node.log());
    assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
}
