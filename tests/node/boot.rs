//! What is enforced before any world is known: there is no saved one, and the API server does not answer yet.

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{DENY_WAIT, PATIENCE, Pod, Probe, Server};

use crate::apiserver::ApiServer;
use crate::kit::{LONG, Node, pair};

/// Ports of shop/web; the policy that comes with the API server opens one of them.
const PERMITTED: u16 = 80;
const FORBIDDEN: u16 = 81;

/// A node, two of its pods, what answers for the first, and what `--pod-cidr` is to say of their addresses.
fn place() -> (Node, Pod, Pod, Server, Vec<String>) {
    let (node, web, client, server) = pair(&[PERMITTED, FORBIDDEN], &[]);
    let ranges = node.host.pod_ranges().iter().flat_map(|range| ["--pod-cidr".to_owned(), range.to_string()]).collect();
    (node, web, client, server, ranges)
}

/// Starts the agent without an API server and without a state of before.
fn start_in_the_dark(node: &mut Node, arguments: &[&str], ranges: &[String]) {
    let all: Vec<&str> = arguments.iter().copied().chain(ranges.iter().map(String::as_str)).collect();
    let agent = node.launch_in_the_dark(&all);
    node.adopt(agent);
}

/// The API server comes, with all these and the policy.
fn told(node: &Node, web: &Pod, client: &Pod) -> ApiServer {
    let api = ApiServer::of(node, &[web, client], PERMITTED);
    node.agent().await_ready();
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(PERMITTED)),
        Probe::open(client.client(), web.v6(), Tcp(PERMITTED)),
        Probe::closed(client.client(), web.v4(), Tcp(FORBIDDEN)),
    ]);
    api
}

#[test]
fn until_a_world_is_known_the_pods_ranges_are_closed_but_to_their_node() {
    let (mut node, web, client, _server, ranges) = place();
    start_in_the_dark(&mut node, &[], &ranges);
    node.agent().await_line("this node's pod ranges are closed until");
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(PERMITTED)),
        Probe::closed(client.client(), web.v6(), Tcp(PERMITTED)),
        Probe::open(node.netns().client(), web.v4(), Tcp(PERMITTED)),
    ]);
    assert_eq!(node.get("/readyz").0, 503, "{}", node.log());
    let _api = told(&node, &web, &client);
}

#[test]
fn where_pods_ranges_are_not_known_either_it_is_said_that_nothing_is_enforced() {
    let (mut node, web, client, _server, _) = place();
    start_in_the_dark(&mut node, &[], &[]);
    node.agent().await_line("nor where this node's pods are (--pod-cidr): nothing is enforced");
    assert_eq!(node.get("/readyz").0, 503, "{}", node.log());
    let _api = told(&node, &web, &client);
}

#[test]
fn a_start_that_is_set_open_lets_all_pass_until_a_world_is_known_and_then_cuts_what_it_forbids() {
    for how in [["--boot", "open"].as_slice(), &["--fail-open"]] {
        let (mut node, web, client, _server, ranges) = place();
        start_in_the_dark(&mut node, how, &ranges);
        node.expect(&[
            Probe::open(client.client(), web.v4(), Tcp(PERMITTED)),
            Probe::open(client.client(), web.v6(), Tcp(FORBIDDEN)),
        ]);
        assert_eq!(node.get("/readyz").0, 503, "{}", node.log());
        let mut forbidden = client.client().open(web.v4(), FORBIDDEN, PATIENCE).expect("nothing is enforced");
        let mut permitted = client.client().open(web.v4(), PERMITTED, PATIENCE).expect("nothing is enforced");
        let _api = told(&node, &web, &client);
        assert!(forbidden.ping(DENY_WAIT).is_err(), "{how:?}\n{}", node.log());
        permitted.ping(LONG).expect("permitted by that world");
    }
}

#[test]
fn a_start_that_is_set_open_answers_for_the_rules_of_an_agent_that_was_killed() {
    let (mut node, web, client, _server, ranges) = place();
    node.write("policy.yaml", &crate::kit::deny_all("shop"));
    node.start(&[]);
    node.kill();
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(PERMITTED))]);
    start_in_the_dark(&mut node, &["--boot", "open"], &ranges);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(PERMITTED))]);
    let _api = told(&node, &web, &client);
}
