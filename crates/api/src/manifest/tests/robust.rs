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
        ("open dashes", "- ".repeat(LINES)),
        ("open questions", "? ".repeat(LINES)),
        ("lists in lists, by dashes", format!("{pod}x:\n  {}", "- ".repeat(LINES))),
        ("anchors", format!("{pod}x:\n{}", (0..LINES).map(|i| format!("- &a{i} b\n")).collect::<String>())),
        ("an alias often", format!("{pod}y: &a b\nx:\n{}", "- *a\n".repeat(LINES))),
        ("tags", format!("{pod}x:\n{}", "- !!str b\n".repeat(LINES))),
        ("flow mappings that do not end", format!("{pod}x: {}", "{a: ".repeat(LINES))),
        ("JSON that nests", "{\"a\":[".repeat(LINES)),
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

/// Ten megabytes of distinct pairs, indented so far.
fn ten_megabytes(indent: usize) -> String {
    let pair = |i: usize| format!("{:indent$}key-{i:07}: value-of-some-length\n", "");
    (0..).map(pair).take((10 << 20) / pair(0).len()).collect()
}

#[test]
fn a_pod_of_ten_megabytes_of_labels_is_read_whole() {
    let pairs = ten_megabytes(4);
    let text =
        format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n{pairs}status: {{podIP: 10.0.0.1}}\n");
    let start = Instant::now();
    let pod = pod(&text);
    println!("a pod of {} MiB: {:?}", text.len() >> 20, start.elapsed());
    assert_eq!(pod.labels.len(), pairs.lines().count());
    assert_eq!(pod.labels["key-0012345"], "value-of-some-length");
    assert_eq!(pod.addresses.len(), 1, "what stands behind them too");
}

#[test]
fn a_policy_of_ten_megabytes_of_annotations_says_what_it_says() {
    let pairs = ten_megabytes(4);
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: shop\n";
    let text =
        format!("{head}  annotations:\n{pairs}spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: 80}}]}}]}}\n");
    let start = Instant::now();
    let policy = policy(&text);
    println!("a policy of {} MiB of annotations: {:?}", text.len() >> 20, start.elapsed());
    assert_eq!((policy.ingress.len(), policy.ingress[0].ports.len()), (1, 1));
    // The same in one value, and in JSON.
    let one = format!("{head}  annotations: {{x: {}}}\nspec: {{podSelector: {{}}}}\n", "y".repeat(10 << 20));
    assert!(self::policy(&one).isolates_ingress);
    let json = format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"p","namespace":"shop","annotations":{{"x":"{}"}}}},"spec":{{"podSelector":{{}}}}}}"#,
        "\\u0041".repeat((10 << 20) / 6)
    );
    assert!(self::policy(&json).isolates_ingress);
}

#[test]
fn a_list_of_100_000_namespaces_is_read_and_a_broken_one_among_them_is_told() {
    const COUNT: usize = 100_000;
    let item = |name: String| format!("- {{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n");
    let items: String =
        (0..COUNT).map(|i| item(if i == 70_000 { "Not_A_Name".to_owned() } else { format!("n{i}") })).collect();
    let start = Instant::now();
    let parsed = parse("t.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{items}"));
    println!("a List of 100,000 namespaces: {:?}", start.elapsed());
    assert_eq!((parsed.objects.len(), parsed.errors.len()), (COUNT - 1, 1));
    assert_eq!(parsed.errors[0].line, 4 + 70_000);
    assert_eq!(parsed.objects[COUNT - 2].line, 3 + COUNT);
}

#[test]
fn numbers_that_no_port_can_be_are_errors_where_they_stand() {
    let numbers =
        ["0", "65536", "-1", "70000", "4294967376", "18446744073709551616", "1e99", "-1e99", "80.5", ".inf", "-.inf"];
    for number in numbers.map(str::to_owned).into_iter().chain(["9".repeat(100_000), format!("1e{}", "9".repeat(1000))])
    {
        for text in [
            v1(&format!("  podSelector: {{}}\n  ingress:\n  - ports: [{{port: {number}}}]\n")),
            v1(&format!("  podSelector: {{}}\n  ingress:\n  - ports: [{{port: 80, endPort: {number}}}]\n")),
        ] {
            let parsed = parse("t.yaml", &text);
            let shown = &number[..number.len().min(30)];
            assert!(parsed.objects.is_empty() && !parsed.errors.is_empty(), "{shown}: {:?}", parsed.objects);
            assert_eq!(parsed.errors[0].line, 7, "{shown}");
            assert!(parsed.errors[0].to_string().len() < 2_000, "{shown}: a complaint is for a person to read");
        }
    }
}

#[test]
fn nul_bytes_are_in_no_name_and_no_label() {
    for text in [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: \"a\\0b\"}\n".to_owned(),
        "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\\u0000b\"}}".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a\0b}\n".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {b: \"c\\0\"}}\n".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {\"b\\0\": c}}\n".to_owned(),
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\n---\n{}", "\0".repeat(1000)),
    ] {
        let parsed = parse("t.yaml", &text);
        assert!(!parsed.errors.is_empty(), "{text:?}");
        for located in &parsed.objects {
            let Object::Namespace(namespace) = &located.object else { panic!("{located:?}") };
            let labels = namespace.labels.iter().flat_map(|(key, value)| [key, value]);
            assert!([&namespace.name].into_iter().chain(labels).all(|t| !t.contains('\0')), "{text:?}");
        }
    }
}
