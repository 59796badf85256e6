//! Whatever the bytes, [`parse`] comes back: no panic, no quadratic time, no half-read object without an error.

use std::time::{Duration, Instant};

use super::*;

/// A small reproducible generator (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const SEEDS: [&str; 5] = [
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  podSelector: \
     &s {matchLabels: {app: web}}\n  ingress:\n  - from:\n    - podSelector: *s\n    - ipBlock: {cidr: 10.0.0.0/8, \
     except: [10.1.0.0/16]}\n    ports: [{port: 80, endPort: 90}, {port: dns, protocol: UDP}]\n---\napiVersion: \
     v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n    net.beta.kubernetes.io/network-policy: |\n      \
     {\"ingress\": {\"isolation\": \"DefaultDeny\"}}\n",
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, labels: {<<: {a: b}, c: \
     'd'}}\n  status: {podIP: 10.0.0.1, podIPs: [{ip: \"fd00::1\"}]}\n- apiVersion: v1\n  kind: Node\n  metadata: \
     {name: n}\n  status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}\n",
    "{\"apiVersion\": \"extensions/v1beta1\", \"kind\": \"NetworkPolicy\", \"metadata\": {\"name\": \"p\\u00e9\"},\n\t\
     \"spec\": {\"podSelector\": {\"matchExpressions\": [{\"key\": \"a\", \"operator\": \"In\", \"values\": [\"b\", \
     null]}]}, \"ingress\": [{}, {\"ports\": [{\"port\": 1e3}, {\"port\": -5}]}]}}",
    "%YAML 1.2\n%TAG ! tag:x,2000:\n--- !!map\n? apiVersion\n: v1\n? kind\n: >-\n  Pod\nmetadata: # words\n  name: \
     \"a\\x41\\\n    b\"\n  labels: !!map {a: !!str 5, b: ! 6}\n...\n",
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec:\n  tier: \
     Admin\n  priority: 5\n  subject: {pods: {podSelector: {}}}\n  ingress:\n  - {name: a, action: Accept, from: \
     [{namespaces: {}}, {}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 9}}}}, {x: 1}]}\n  egress:\n  \
     - action: Deny\n    to: [{networks: [10.0.0.0/8]}, {nodes: {}}, {domainNames: [a.b]}]\n",
];

const PIECES: [&str; 34] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    "? ",
    ", ",
    "\n",
    "\r",
    "\t",
    "  ",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "!",
    "|",
    ">",
    "#",
    " #",
    "%",
    "---",
    "...",
    "\\",
    "\0",
    "\u{feff}",
    "é",
    "😀",
    "null",
    "18446744073709551616",
];

#[test]
fn parse_survives_mutated_text() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..30_000 {
        let mut bytes = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len() + 1);
            let end = (at + random.below(20)).min(bytes.len());
            match random.below(5) {
                0 => drop(bytes.drain(at..end)),
                1 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
                2 => drop(bytes.splice(at..end, PIECES[random.below(PIECES.len())].bytes())),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    drop(bytes.splice(to..to, copy));
                }
                _ if at < bytes.len() => bytes[at] = random.next() as u8,
                _ => bytes.truncate(at / 2),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let parsed = parse(if round % 2 == 0 { "t.yaml" } else { "t.json" }, &text);
        let lines = text.split('\n').count() + text.matches('\r').count() + 1;
        for error in &parsed.errors {
            assert!((1..=lines).contains(&error.line), "{error}\n{text:?}");
            assert!(!error.message.is_empty());
        }
    }
}

#[test]
fn parse_survives_every_truncation() {
    for seed in SEEDS {
        for end in (0..seed.len()).filter(|&end| seed.is_char_boundary(end)) {
            let _ = parse("t.yaml", &seed[..end]);
            let _ = parse("t.json", &seed[..end]);
        }
    }
}

/// Time for a text of some size; the texts are such that quadratic work would take minutes.
fn time(text: &str) -> Duration {
    let start = Instant::now();
    let _ = parse("t.yaml", text);
    start.elapsed()
}

#[test]
fn long_inputs_take_linear_time() {
    const LINES: usize = 300_000;
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    let policy = v1("  ingress:\n  - ports:\n");
    for (what, text) in [
        ("labels", format!("{pod}x:\n{}", (0..LINES).map(|i| format!("  k{i}: v\n")).collect::<String>())),
        ("wrong ports", policy.clone() + &"    - port: 0\n".repeat(LINES)),
        ("unknown fields", policy.clone() + &"    - {prt: 1}\n".repeat(LINES / 3)),
        ("comments", format!("{pod}{}", "# x\n".repeat(LINES))),
        ("directives", "%X\n".repeat(LINES)),
        ("blank lines", format!("{pod}{}", "\n".repeat(LINES))),
        ("documents", "---\n".repeat(LINES)),
        ("a long plain scalar", format!("{pod}x:\n{}", "  word\n".repeat(LINES))),
        ("a long literal", format!("{pod}x: |\n{}", "  word\n".repeat(LINES))),
        ("a flow list", format!("{pod}x: [\n{}]\n", "  a,\n".repeat(LINES))),
        ("open brackets", "[\n".repeat(LINES)),
        ("open quotes", format!("{pod}x: \"{}", "word\n".repeat(LINES))),
        ("keys of one mapping twice", format!("{pod}x:\n{}", "  k: v\n".repeat(LINES))),
    ] {
        let took = time(&text);
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    }
}

#[test]
fn bad_labels_without_end_are_told_in_bounds() {
    let labels: String = (0..100_000).map(|i| format!("    -{i}: v\n")).collect();
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n{labels}");
    let errors = errors(&text);
    assert_eq!(errors.len(), 50);
    assert!(errors.last().unwrap().message.contains("99950 more complaints"));
}
