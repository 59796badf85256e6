//! Writes the seed corpus: `seeds ROOT CORPUS`. What is in it comes from the examples and the tests' fixtures.

use std::fs;
use std::path::Path;

use etherparse::PacketBuilder;
// What the coverage's calls need.
use libfuzzer_sys as _;
use podgate_api::{Change, Kind, Object, manifest};
use podgate_watch::kube::fuzzing::{RESOURCE_COUNT, kind};
use podgate_watch::saved::fuzzing::file;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, corpus] = &arguments[..] else { panic!("seeds ROOT CORPUS") };
    let (root, corpus) = (Path::new(root), Path::new(corpus));
    let texts = texts(root);
    manifests(corpus, &texts);
    packets(corpus);
    netlink(corpus);
    worlds(corpus);
    watches(corpus, &texts);
    saved(corpus, &texts);
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) {
    let directory = corpus.join(target);
    fs::create_dir_all(&directory).expect("the corpus");
    fs::write(directory.join(name), bytes).expect("the corpus");
}

/// The manifests of the examples (deploy/examples) and those in `texts`, by name.
fn texts(root: &Path) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for directory in [root.join("deploy/examples"), root.join("tests/fuzz/texts")] {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory).expect("a directory of manifests") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
                    let name = path.strip_prefix(root).expect("under the root").to_string_lossy().replace('/', "-");
                    texts.push((name, fs::read_to_string(&path).expect("a text")));
                }
            }
        }
    }
    texts.sort();
    texts
}

fn manifests(corpus: &Path, texts: &[(String, String)]) {
    for (name, text) in texts.iter().filter(|(_, text)| text.len() < 8192) {
        write(corpus, "manifest", name, text.as_bytes());
    }
}

const A4: [u8; 4] = [10, 1, 0, 7];
const B4: [u8; 4] = [10, 1, 0, 9];
const A6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const B6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn some_packets() -> Vec<(&'static str, Vec<u8>)> {
    let tcp4 = written(|o| PacketBuilder::ipv4(A4, B4, 64).tcp(40000, 5432, 1, 9).syn().write(o, b"").unwrap());
    let reply4 =
        written(|o| PacketBuilder::ipv4(B4, A4, 64).tcp(5432, 40000, 1, 9).syn().ack(2).write(o, b"x").unwrap());
    let udp6 = written(|o| PacketBuilder::ipv6(A6, B6, 64).udp(5353, 53).write(o, b"query").unwrap());
    let ping = written(|o| PacketBuilder::ipv4(A4, B4, 64).icmpv4_echo_request(1, 2).write(o, &[0; 16]).unwrap());
    let dest = |inner: &[u8]| {
        written(|o| PacketBuilder::ipv4([10, 9, 9, 9], A4, 64).icmpv4_raw(3, 3, [0; 4]).write(o, inner).unwrap())
    };
    let too_big = written(|o| PacketBuilder::ipv6(B6, A6, 64).icmpv6_raw(2, 0, [0, 0, 5, 0]).write(o, &udp6).unwrap());
    let v6 = |first: u8, rest: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((rest.len() as u16).to_be_bytes());
        packet.extend([first, 64]);
        packet.extend(A6);
        packet.extend(B6);
        packet.extend(rest);
        packet
    };
    let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([51, 0, 4, 0, 0, 0, 0, 0]);
    chain.extend([44, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
    chain.extend([17, 0, 0, 1, 0, 0, 0, 1]);
    chain.extend([0x14, 0xe9, 0, 53, 0, 8, 0, 0]);
    let mut fragment = tcp4.clone();
    fragment[6..8].copy_from_slice(&0x2010u16.to_be_bytes());
    let mut options = tcp4.clone();
    options[0] = 0x46;
    options.splice(20..20, [1, 1, 1, 0]);
    vec![
        ("icmp-error", dest(&tcp4)),
        ("tcp4", tcp4),
        ("reply4", reply4),
        ("udp6", udp6),
        ("ping", ping),
        ("too-big6", too_big),
        ("extensions6", v6(0, &chain)),
        ("later-fragment6", v6(44, &[60, 0, 5, 200, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 0])),
        ("sctp6", v6(132, &[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("later-fragment4", fragment),
        ("options4", options),
    ]
}

fn packets(corpus: &Path) {
    for (name, packet) in some_packets() {
        write(corpus, "packet", name, &packet);
    }
}

/// A netlink message with attributes.
fn message(kind: u16, flags: u16, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((20 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn netlink(corpus: &Path) {
    let seed = |what: u8, name: &str, messages: &[Vec<u8>]| {
        write(corpus, "netlink", name, &[&[what][..], &messages.concat()].concat());
    };
    // A queue's datagram with each packet in it (linux/netfilter/nfnetlink_queue.h).
    let queued: Vec<_> = (0u32..)
        .zip(some_packets())
        .map(|(id, (_, packet))| {
            let [a, b, c, d] = id.to_be_bytes();
            let body = [
                attribute(1, &[a, b, c, d, 8, 0, 4]),
                attribute(3, &0x4000u32.to_be_bytes()),
                attribute(5, &2u32.to_be_bytes()),
                attribute(6, &3u32.to_be_bytes()),
                attribute(13, &1500u32.to_be_bytes()),
                attribute(10, &packet),
            ];
            message(3 << 8, 0, 2, &body.concat())
        })
        .collect();
    seed(0, "queued-one", &queued[..1]);
    seed(0, "queued-some", &queued[2..6]);
    let refused = |code: i32, flags, more: &[u8]| {
        let mut bytes = message(2, flags, 0, &[&[0; 16][..], more].concat());
        bytes[16..20].copy_from_slice(&code.to_ne_bytes());
        bytes
    };
    seed(0, "queue-answers", &[refused(0, 0, &[]), refused(-2, 0, &[]), queued[0].clone()]);
    // Errors with words of the kernel's (extended acknowledgements).
    seed(1, "refused", &[refused(-2, 0x300, &attribute(1, b"no such table\0")), message(3, 2, 0, &[])]);
    // A connection (linux/netfilter/nfnetlink_conntrack.h).
    let tuple = |ips: &[u8], ports: &[u8]| [attribute(0x8001, ips), attribute(0x8002, ports)].concat();
    let v4 = |a: &[u8], b: &[u8]| [attribute(1, a), attribute(2, b)].concat();
    let v6 = |a: &[u8], b: &[u8]| [attribute(3, a), attribute(4, b)].concat();
    let ports =
        |p: u16, q: u16| [attribute(1, &[6]), attribute(2, &p.to_be_bytes()), attribute(3, &q.to_be_bytes())].concat();
    let connection = |original: Vec<u8>, reply: Vec<u8>| {
        let parts = [
            attribute(0x8001, &original),
            attribute(0x8002, &reply),
            attribute(8, &u32::MAX.to_be_bytes()),
            attribute(18, &[0, 5]),
            attribute(22, &[0xff; 16]),
        ];
        parts.concat()
    };
    let four = connection(tuple(&v4(&A4, &B4), &ports(40000, 80)), tuple(&v4(&B4, &A4), &ports(80, 40000)));
    let six = connection(tuple(&v6(&A6, &B6), &ports(40000, 80)), tuple(&v6(&B6, &A6), &ports(80, 40000)));
    seed(1, "connections", &[message(1 << 8, 2, 2, &four), message(1 << 8, 2, 10, &six), message(3, 2, 0, &[])]);
    // The table's owner, its rules' comment (linux/netfilter/nf_tables.h).
    let comment = |text: &str| [&[0, text.len() as u8 + 1][..], text.as_bytes(), &[0]].concat();
    let key = attribute(0x8001, &attribute(1, &7u32.to_be_bytes()));
    let words = attribute(6, &comment("agent podgate/agent/0123456789abcdef since 99 returns 2"));
    let elements = attribute(0x8001, &[key, words].concat());
    let set = [attribute(1, b"podgate\0"), attribute(2, b"owner\0"), attribute(0x8003, &elements)].concat();
    let marks = comment("podgate bits: packet 0x3c000000 connection 0x40000000 label 120");
    let rule = [attribute(1, b"podgate\0"), attribute(2, b"divert\0"), attribute(7, &marks)].concat();
    seed(1, "table", &[message(0xa0c, 2, 1, &set), message(0xa06, 2, 1, &rule)]);
    // Routes (linux/rtnetlink.h): struct rtmsg stands where the other messages have their header.
    let route = |kind: u16, family: u8, bits: u8, address: &[u8]| {
        let mut body = vec![bits, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(1, address));
        body.extend(attribute(4, &5u32.to_ne_bytes()));
        body.extend(attribute(15, &254u32.to_ne_bytes()));
        let mut bytes = message(kind, 0, family, &[]);
        bytes.truncate(17);
        bytes.extend(body);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    };
    seed(1, "routes", &[route(24, 2, 32, &A4), route(25, 10, 128, &A6)]);
    let mut link = message(16, 0, 0, &[0; 12]);
    link[20..24].copy_from_slice(&9u32.to_ne_bytes());
    seed(1, "link", &[link]);
    let lines =
        " 9840  25931     7 2   128    11     3      402  1\n 9841  25931     0 2   128     0     0       12  1\n";
    seed(2, "queue-table", &[lines.as_bytes().to_vec()]);
}

/// Draws of every size: what they come to is the generator's.
fn worlds(corpus: &Path) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for length in [16, 200, 1000, 4000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        write(corpus, "world", &format!("draws-{length}"), &bytes);
    }
}

/// The objects of the texts as an API server tells them: a list and a watch for each resource.
fn watches(corpus: &Path, texts: &[(String, String)]) {
    let documents = |text: &str| text.split("\n---").filter_map(json).collect::<Vec<_>>();
    let all: Vec<(Object, String)> = texts.iter().flat_map(|(_, text)| documents(text)).collect();
    for resource in 0..RESOURCE_COUNT {
        let of_kind: Vec<_> = all.iter().filter(|(object, _)| object.key().kind == kind(resource)).take(3).collect();
        let list: Vec<_> = of_kind.iter().map(|(_, text)| text.as_str()).collect();
        let mut lines = String::new();
        for (what, (_, text)) in ["ADDED", "MODIFIED", "DELETED"].iter().zip(&of_kind) {
            lines += &format!("{{\"type\":\"{what}\",\"object\":{text}}}\n");
        }
        let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let list = format!(r#"{{"metadata":{{"resourceVersion":"9","continue":""}},"items":[{}]}}"#, list.join(","));
        let input = format!("{}{list}\n%%\n{lines}{bookmark}\n{gone}\n", char::from(resource as u8));
        write(corpus, "watch", &format!("list-and-watch-{resource}"), input.as_bytes());
        let input = format!("{}{lines}", char::from(resource as u8));
        write(corpus, "watch", &format!("watch-{resource}"), input.as_bytes());
    }
}

/// A document of one object, and it as JSON, if it is JSON or something this can say in JSON.
fn json(document: &str) -> Option<(Object, String)> {
    let document = document.trim_start_matches("---").trim();
    let parsed = manifest::parse("document", document);
    let located = parsed.objects.into_iter().next()?;
    let value: serde_json::Value = serde_json::from_str(document).ok()?;
    Some((located.object, value.to_string()))
}

fn saved(corpus: &Path, texts: &[(String, String)]) {
    let mut changes: Vec<Change> = Vec::new();
    for (_, text) in texts {
        changes.extend(manifest::parse("text", text).objects.into_iter().map(|located| Change::Apply(located.object)));
    }
    changes.dedup_by_key(|change| match change {
        Change::Apply(object) => object.key(),
        Change::Delete(key) => key.clone(),
    });
    let gone: Vec<Change> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Apply(object) if object.key().kind == Kind::Pod => Some(Change::Delete(object.key())),
            _ => None,
        })
        .take(2)
        .collect();
    for (name, changes) in [("small", &changes[..changes.len().min(6)]), ("large", &changes[..changes.len().min(24)])] {
        let identity = fuzz::saved::IDENTITY;
        let snapshot = file(false, 3, identity, &[changes.to_vec()]).expect("a snapshot");
        let journal = file(true, 3, identity, &[changes[..1].to_vec(), gone.clone()]).expect("a journal");
        let input = [&[1], &snapshot[..], fuzz::saved::DIVIDER, &journal].concat();
        write(corpus, "saved", name, &input);
        write(corpus, "saved", &format!("{name}-without-journal"), &[&[1], &snapshot[..]].concat());
    }
}
