//! `podgate status` and the probes by exec, asked of real agents: before, while and after they run, and of two at once.

use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

use crate::kit::{LONG, Node, binary, deny_all, pair, web_on};

/// A node whose agents have their sockets in a directory of the test's.
struct Desk {
    node: Node,
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let (node, ..) = pair(&[], &[]);
        node.write("policy.yaml", &web_on("TCP", 80));
        Desk { node, directory: tempfile::tempdir().expect("a directory") }
    }

    fn socket(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("text").to_owned()
    }

    fn start(&mut self, more: &[&str]) {
        let socket = self.socket("agent.sock");
        self.node.start(&[&["--socket", &socket], more].concat());
    }

    /// Runs `podgate status` for the agent of that socket: exit code, what it says, what it complains of.
    fn status(&self, socket: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(binary());
        command.arg("status").args(arguments).env("PODGATE_SOCKET", self.socket(socket));
        // The socket is a file: the namespace of who asks does not matter.
        let Output { status, stdout, stderr } = command.output().expect("started");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (status.code().expect("an end"), text(stdout), text(stderr))
    }

    /// Each look is a request, and the pace.
    fn await_ready(&self, socket: &str) {
        let deadline = Instant::now() + LONG;
        while let (code, said, complaint) = self.status(socket, &["--ready"])
            && code != 0
        {
            assert!(Instant::now() < deadline, "{said}{complaint}\n{}", self.node.log());
        }
    }

    #[track_caller]
    fn json(&self, socket: &str) -> Value {
        let (code, said, complaint) = self.status(socket, &["-o", "json"]);
        assert_eq!((code, complaint.as_str()), (0, ""), "{}", self.node.log());
        serde_json::from_str(&said).expect("JSON")
    }

    #[track_caller]
    fn no_agent(&self, arguments: &[&str]) {
        let (code, said, complaint) = self.status("agent.sock", arguments);
        assert_eq!((code, said.as_str(), complaint.lines().count()), (2, "", 1), "{complaint}");
        assert!(complaint.contains("no agent answers") && complaint.contains("agent.sock"), "{complaint}");
    }
}

#[test]
fn probes_by_exec_tell_an_agent_from_none_and_a_crash_leaves_nothing_in_the_way() {
    let mut desk = Desk::new();
    desk.no_agent(&[]);
    desk.no_agent(&["--ready"]);
    desk.node.launch(&["--http", "off", "--socket", &desk.socket("agent.sock")]);
    desk.await_ready("agent.sock");
    assert_eq!(desk.status("agent.sock", &["--live"]), (0, "ok\n".to_owned(), String::new()));
    desk.node.kill();
    desk.no_agent(&["--ready"]);
    desk.no_agent(&["--live"]);
    desk.start(&[]);
    let (code, said, _) = desk.status("agent.sock", &["--ready"]);
    assert_eq!((code, said.lines().next()), (0, Some("ready")), "{said}");
    desk.node.stop();
    assert!(!desk.directory.path().join("agent.sock").exists());
    desk.no_agent(&["--ready"]);
}

#[test]
fn the_status_tells_what_is_enforced_and_what_is_wrong() {
    let mut desk = Desk::new();
    // Both pods of shop are isolated; lab is not even there.
    desk.node.write("shop.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    desk.node.write("deny.yaml", &(deny_all("shop") + &deny_all("lab")));
    desk.start(&["--queues", "2"]);
    desk.node.write("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [}\n");
    desk.node.agent().await_line("broken.yaml");

    let status = desk.json("agent.sock");
    assert_eq!((&status["ready"], &status["live"]), (&true.into(), &true.into()), "{status:#}");
    assert_eq!((&status["node"], &status["pid"]), (&"node".into(), &desk.node.agent().process.id().into()));
    assert_eq!(status["generation"], desk.node.generation());
    let [source] = &status["sources"].as_array().expect("a list")[..] else { panic!("{status:#}") };
    assert_eq!(source["state"], "live", "{status:#}");
    let counts = &status["counts"];
    assert_eq!(
        (&counts["pods"], &counts["localPods"], &counts["nodes"]),
        (&2.into(), &2.into(), &1.into()),
        "{counts}"
    );
    assert_eq!(counts["policies"], serde_json::json!({"admin": 0, "networkpolicy": 3, "baseline": 0}));
    let divert = &status["divert"];
    assert_eq!(
        (&divert["intact"], &divert["owner"], &divert["failMode"]),
        (&true.into(), &true.into(), &"closed".into())
    );
    assert_eq!((&divert["isolatedAddresses"], &divert["openAddresses"]), (&4.into(), &0.into()), "{divert}");
    assert!(divert["podRanges"].as_array().is_some_and(|ranges| ranges.len() == 2), "{divert}");
    let queues = status["queues"].as_array().expect("a list");
    assert!(queues.len() == 2 && queues.iter().all(|q| q["bound"] == true), "{queues:?}");
    assert_eq!(status["problems"]["total"], 1);
    let problem = status["problems"]["first"][0]["place"].as_str().expect("text");
    assert!(problem.contains("broken.yaml"), "{status:#}");
    let warning = status["warnings"]["first"][0]["object"].as_str().expect("text");
    assert_eq!(warning, "NetworkPolicy lab/deny-all", "{status:#}");

    let (code, text, _) = desk.status("agent.sock", &[]);
    assert_eq!(code, 0);
    assert!(text.starts_with("ready: generation "), "{text}");
    for line in ["problems    1\n", "node        node\n", "world       2 pods (2 here)", "as they should be"] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[test]
fn an_agent_that_has_handed_over_is_not_ready_at_its_own_socket_and_the_new_one_is() {
    let mut desk = Desk::new();
    desk.start(&[]);
    let second = desk.socket("second.sock");
    let old = desk.node.hand_over(&["--socket", &second]);
    old.await_unready("handed over");
    let (code, said, _) = desk.status("agent.sock", &["--ready"]);
    assert!(code == 1 && said.contains("handed over"), "{code} {said}");
    assert_eq!(desk.status("second.sock", &["--ready"]).0, 0);
    assert_eq!(desk.json("agent.sock")["divert"]["owner"], false);
    assert_eq!(desk.json("second.sock")["divert"]["owner"], true);
    let (code, said, _) = desk.status("agent.sock", &["--ready", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &said["ready"]), (1, &false.into()), "{said}");
    old.stop();
}

#[test]
fn two_agents_at_one_path_and_one_address_are_asked_one_after_the_other() {
    let mut desk = Desk::new();
    desk.start(&[]);
    let asked = |desk: &Desk| desk.json("agent.sock")["pid"].as_u64();
    let first = asked(&desk);
    let next = desk.node.launch_sharing(&["--socket", &desk.socket("agent.sock")]);
    let pid = u64::from(next.process.id());
    // Each look is a request, and the pace.
    let deadline = std::time::Instant::now() + crate::kit::LONG;
    while asked(&desk) == first {
        assert!(std::time::Instant::now() < deadline, "{}\n{}", desk.node.log(), next.log());
    }
    assert_eq!(asked(&desk), Some(pid));
    assert_eq!(desk.status("agent.sock", &["--ready"]).0, 0);
    let old = desk.node.adopt(next).expect("the first");
    old.stop();
    assert_eq!(asked(&desk), Some(pid), "the end of the old one takes nothing away");
    assert_eq!(desk.node.get("/readyz").0, 200);
}

#[test]
fn metrics_by_tls_and_token_are_for_those_who_show_it() {
    let mut desk = Desk::new();
    let file = |name: &str| desk.directory.path().join(name);
    let made = rcgen::generate_simple_self_signed(["node.example".to_owned()]).expect("a certificate");
    std::fs::write(file("tls.crt"), made.cert.pem()).expect("written");
    std::fs::write(file("tls.key"), made.signing_key.serialize_pem()).expect("written");
    std::fs::write(file("token"), "a-secret\n").expect("written");
    let names = ["tls.crt", "tls.key", "token"].map(|name| file(name).to_str().expect("text").to_owned());
    let [certificate, key, token] = names.each_ref().map(String::as_str);
    let flags = ["--http-tls-cert", certificate, "--http-tls-key", key, "--http-token-file", token];
    let socket = desk.socket("agent.sock");
    desk.node.launch(&[&["--socket", &socket][..], &flags].concat());

    let curl = |path: &str, more: &[&str]| {
        let url = format!("https://node.example:9840{path}");
        let fixed = ["-sS", "--cacert", certificate, "--resolve", "node.example:9840:127.0.0.1", "-o", "-"];
        let fixed = [&fixed[..], &["-w", "\n%{http_code}"], more, &[&url]].concat();
        desk.node.command("curl", &fixed).1
    };
    let refused = curl("/metrics", &[]);
    assert!(refused.ends_with("\n401") && !refused.contains("podgate_"), "{refused}");
    assert!(curl("/metrics", &["-H", "Authorization: Bearer another"]).ends_with("\n401"));
    let told = curl("/metrics", &["-H", "Authorization: Bearer a-secret"]);
    assert!(told.ends_with("\n200") && told.contains("podgate_ready"), "{told}");
    assert!(curl("/readyz?generation=1", &[]).ends_with("\n200"));
    // The socket needs neither: its mode is its lock.
    assert_eq!(desk.status("agent.sock", &["--ready"]).0, 0);
}
