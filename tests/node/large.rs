//! What is large: a policy as large as an API server takes is enforced, packets are judged while it is compiled, and what
//! others change afterwards does not pay for it; what an API server says without an end does not fill memory up.

use std::time::Instant;

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{PodOptions, Probe};

use crate::apiserver::{ApiServer, POLICIES};
use crate::kit::{LONG, pair, policy, web_on};

/// Rules of some 75 bytes: together the 1.5 MiB that etcd takes in one object.
const RULES: usize = 20_000;

/// Each rule lets one address in that nobody has; the last one lets `shop/client` in at port 81.
fn large() -> String {
    let rule = |i: usize| {
        let [a, b] = ((2 * i) as u16).to_be_bytes();
        format!("{{from: [{{ipBlock: {{cidr: 32.0.{a}.{b}/32}}}}], ports: [{{port: {}}}]}},\n    ", 1000 + i % 1000)
    };
    let rules: String = (0..RULES).map(rule).collect();
    let last = "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 81}]}";
    policy("large", "shop", &format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{rules}{last}]}}"))
}

#[test]
fn a_policy_as_large_as_can_be_is_enforced_and_stops_nobody() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    node.write("web.yaml", &web_on("TCP", 80));
    let other = node.pod(PodOptions::new("other/pod"));
    let _other_server = other.server(&[90], &[]).expect("a server");
    node.start(&[]);
    let open = |port| Probe::open(client.client(), web.v4(), Tcp(port));
    let closed = |port| Probe::closed(client.client(), web.v4(), Tcp(port));
    node.expect(&[open(80), closed(81)]);

    let (text, before) = (large(), node.generation());
    assert!(text.len() > 1 << 20, "{} bytes", text.len());
    let written = Instant::now();
    node.write("large.yaml", &text);
    let mut judged = 0;
    while node.generation() == before {
        node.expect(&[open(80)]);
        judged += 1;
        assert!(written.elapsed() < LONG, "{}", node.log());
    }
    let large = written.elapsed();
    node.expect(&[open(80), open(81)]);

    let written = Instant::now();
    node.apply("other.yaml", &policy("other", "other", "{podSelector: {}}"));
    println!(
        "{RULES} rules in force after {large:?}, {judged} connections meanwhile; another's policy {:?}",
        written.elapsed()
    );
    node.expect(&[open(80), open(81), Probe::closed(client.client(), other.v4(), Tcp(90))]);
    node.remove("large.yaml");
    node.expect(&[open(80), closed(81)]);
}

#[test]
fn a_line_without_end_from_the_api_server_fills_no_memory_up_and_opens_nothing() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    let api = ApiServer::of(&node, &[&web, &client], 80);
    let agent = node.launch_in_the_dark(&[]);
    node.adopt_ready(agent);
    let open = |port| Probe::open(client.client(), web.v4(), Tcp(port));
    let closed = |port| Probe::closed(client.client(), web.v4(), Tcp(port));
    node.expect(&[open(80), closed(81)]);
    let up = "podgate_source_up{resource=\"networkpolicies.networking.k8s.io\"}";
    node.await_metric(up, 1.0);

    let before = node.agent().memory("VmHWM") >> 20;
    api.endless(Some(POLICIES));
    let deadline = Instant::now() + LONG;
    let mut told = false;
    while api.hung_up().0 < 4 || !told {
        assert!(Instant::now() < deadline, "{:?}\n{}", api.hung_up(), node.log());
        node.expect(&[open(80), closed(81)]);
        told |= node.get("/readyz").1.contains("larger than 16 MiB");
    }
    let (lines, bytes) = api.hung_up();
    let after = node.agent().memory("VmHWM") >> 20;
    println!(
        "{lines} lines without end, {} MiB sent: most resident {before} MiB before, {after} MiB after",
        bytes >> 20
    );
    assert!(after < before + 64, "{before} MiB before, {after} MiB after {bytes} bytes");

    api.endless(None);
    node.await_metric(up, 1.0);
    let generation = node.generation();
    api.put_web_on(81);
    node.await_generation(generation + 1);
    node.expect(&[closed(80), open(81)]);
}
