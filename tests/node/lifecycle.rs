//! Start, end, crash and clean-up: fails closed unless told otherwise, and leaves what it should.

use std::io::{BufRead, BufReader, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Stdio;

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{Connection, PATIENCE, Pod, Probe, Server, mortal};

use crate::apiserver::ApiServer;
use crate::kit::{Agent, Node, binary, pair, web_on};

/// Only port 80 of the two is open.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    (node, web, client, server)
}

fn table(node: &Node) -> bool {
    node.command("nft", &["list", "table", "inet", "podgate"]).0
}

#[test]
fn killed_it_fails_closed_and_accepted_connections_go_on() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.kill();
    connection.ping(PATIENCE).expect("it goes on");
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v6(), Tcp(81)),
        // Nothing isolates the client: known to be open, no verdict needed.
        Probe::open(web.client(), client.v4(), podgate_sandbox::ProbeKind::Echo),
    ]);
    node.start(&[]);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80)), Probe::closed(client.client(), web.v4(), Tcp(81))]);
    connection.ping(PATIENCE).expect("it still goes on");
}

#[test]
fn killed_with_fail_open_everything_passes() {
    let (mut node, web, client, _server) = shop();
    node.start(&["--fail-open"]);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81))]);
    node.kill();
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(81)), Probe::open(client.client(), web.v6(), Tcp(80))]);
    node.start(&["--fail-open"]);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81))]);
}

#[test]
fn a_graceful_end_keeps_the_node_closed_and_says_so() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    node.agent().process.signal(nix::sys::signal::Signal::SIGTERM);
    node.agent().await_line("the rules stay");
    node.stop();
    assert!(table(&node));
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80))]);
    let (ok, said) = node.command(binary().to_str().expect("text"), &["cleanup"]);
    assert!(ok && said.contains("table inet podgate"), "{said}");
    assert!(!table(&node));
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(81))]);
    // A second time there is nothing to do, and that is no error.
    let (ok, said) = node.command(binary().to_str().expect("text"), &["cleanup"]);
    assert!(ok, "{said}");
}

#[test]
fn a_graceful_end_with_remove_leaves_other_tables_alone_and_no_trace() {
    let (mut node, web, client, _server) = shop();
    let ruleset = "table ip others { chain forward { type filter hook forward priority filter; counter accept; } }";
    assert!(node.command("nft", &[ruleset]).0 || node.command("nft", &["add", "table", "ip", "others"]).0);
    let before = node.command("nft", &["--stateless", "list", "ruleset"]).1;
    node.start(&["--on-exit", "remove"]);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81)), Probe::open(client.client(), web.v4(), Tcp(80))]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    assert!(remembered(&node, &mut connection) > 0, "while the agent lives, it is remembered");
    node.stop();
    assert_eq!(node.command("nft", &["--stateless", "list", "ruleset"]).1, before);
    assert_eq!(remembered(&node, &mut connection), 0, "it goes on, and nothing remembers it");
}

/// How many of a ping's packets are of a connection that has one of the agent's labels or its mark, as another table sees them:
/// `conntrack` shows only labels that /etc has names for.
fn remembered(node: &Node, connection: &mut Connection) -> u64 {
    let nft = |text: &str| {
        let (ok, said) = node.command("nft", &[text]);
        assert!(ok, "{text}: {said}");
        said
    };
    let rules: String = ["ct label 120", "ct label 121", "ct label 123", "ct mark & 0x1000 != 0"]
        .map(|of| format!("{of} counter name seen; "))
        .concat();
    nft(&format!(
        "table inet look {{ counter seen {{ }}; chain c {{ type filter hook forward priority 0; {rules} }}; }}"
    ));
    connection.ping(PATIENCE).expect("it goes on");
    let seen = nft("list counter inet look seen");
    nft("delete table inet look");
    let packets = seen.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{seen}"))
}

/// The abstract name of the agent's life.
fn life(node: &Node) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/net/unix", node.agent().process.id())).expect("its sockets");
    // Its watchers' sockets have no name; that which listens has the flag __SO_ACCEPTCON.
    let listens = |line: &&str| line.split_whitespace().nth(3) == Some("00010000");
    let name = text.lines().filter(listens).find_map(|line| line.split_once(" @podgate/agent/"));
    format!("podgate/agent/{}", name.expect("a life").1)
}

/// Which name the child process is to take; the test below is nothing without it.
const NAME: &str = "PODGATE_TEST_NAME";

/// In the child: listens as a user without privileges, with no room for anybody, until its parent's pipe ends.
#[test]
fn child_that_takes_a_name() {
    let Some(name) = std::env::var_os(NAME) else { return };
    nix::unistd::setuid(nix::unistd::Uid::from_raw(65534)).expect("root may be anybody");
    let address = SocketAddr::from_abstract_name(name.as_encoded_bytes()).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("it is free");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("none")).expect("it listens");
    let _first = UnixStream::connect_addr(&address).expect("the only one");
    println!("it is taken");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the end");
}

#[test]
fn who_takes_the_name_of_a_dead_agents_life_keeps_no_agent_from_its_work() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    let api = ApiServer::of(&node, &[&web, &client], 80);
    let agent = node.launch_in_the_dark(&[]);
    node.adopt_ready(agent);
    node.await_metric("podgate_saved_world_up", 1.0);
    let name = life(&node);
    node.kill();
    drop(api);
    let mut command = mortal(std::env::current_exe().expect("this test"));
    command.args(["--exact", "lifecycle::child_that_takes_a_name", "--nocapture", "--test-threads=1"]);
    command.env(NAME, name).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut squatter = node.netns().spawn(command).expect("started");
    let mut lines = BufReader::new(squatter.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("it is taken")), "the name could not be taken");
    let agent = node.launch_in_the_dark(&[]);
    node.adopt_ready(agent);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80)), Probe::closed(client.client(), web.v4(), Tcp(81))]);
}

#[test]
fn without_the_capability_it_ends_with_one_clear_line() {
    let (node, ..) = shop();
    let agent = Agent::start_without(node.netns(), node.directory(), "net_admin");
    let (ok, said) = agent.ended();
    assert!(!ok && said.contains("NET_ADMIN"), "{said}");
}

#[test]
fn manifests_that_cannot_be_followed_are_a_failure_and_leave_the_rules() {
    use std::os::unix::fs::PermissionsExt;
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    node.kill();
    let mode = |mode| std::fs::set_permissions(node.directory(), std::fs::Permissions::from_mode(mode)).expect("set");
    mode(0o000);
    let agent = Agent::start_without(node.netns(), node.directory(), "dac_override,-dac_read_search");
    let (ok, said) = agent.ended();
    assert!(!ok && said.contains("cannot be followed"), "{said}");
    mode(0o700);
    assert!(table(&node));
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81))]);
}

#[test]
fn the_nfq_crate_serves_as_well() {
    let (mut node, web, client, _server) = shop();
    node.start(&["--receiver", "nfq", "--queues", "3"]);
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(80)),
        Probe::open(client.client(), web.v6(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Tcp(81)),
    ]);
}
