//! The program in the kernel, without packets: made, taken over, changed, watched, taken away.

#![allow(clippy::unwrap_used)]

mod kit;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use kit::*;
use podgate_netfilter::{
    Changed, Claim, Cleanup, Error, Expect, Forget, Marks, MarksError, Open, Program, ProgramSettings, Update, cleanup,
    owner, probe,
};

const BOTH: Open = Open { ingress: true, egress: true };
const NEITHER: Open = Open { ingress: false, egress: false };

fn settings() -> ProgramSettings {
    ProgramSettings { queues: 3..=4, udp_prerouting: Some(false), ..ProgramSettings::default() }
}

fn install(settings: ProgramSettings) -> Program {
    Program::install(settings).unwrap_or_else(|e| panic!("{e}"))
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

/// The table as nft lists it, without what differs between kernels and runs.
fn listing(at: &Namespace) -> String {
    let mut queue = false;
    let mut lines = Vec::new();
    for line in at.sh("nft list table inet podgate").lines() {
        // The rule that queues: native or compat, which nft 1.0 prints as nothing, later ones as `xt target`.
        let begins = line
            .trim()
            .strip_prefix("chain to_queue")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let in_queue = std::mem::replace(&mut queue, begins);
        let owner = line.contains("comment \"agent ");
        lines.push(match () {
            () if in_queue => "\t\tQUEUE".to_owned(),
            () if owner => "\t\telements = { OWNER }".to_owned(),
            () => line.to_owned(),
        });
    }
    lines.join("\n") + "\n"
}

fn elements(at: &Namespace, set: &str) -> String {
    let listed = at.sh(&format!("nft list set inet podgate {set}"));
    let inside = listed.split_once("elements = {").map_or("", |(_, rest)| rest.split('}').next().unwrap());
    inside.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Handles of the base chains.
fn base_chains(at: &Namespace) -> Vec<String> {
    let listed = at.sh("nft -a list table inet podgate");
    let lines: Vec<&str> = listed.lines().collect();
    lines.windows(2).filter(|pair| pair[1].contains("type filter hook")).map(|pair| pair[0].trim().to_owned()).collect()
}

#[test]
fn the_table_is_as_written_down() {
    let at = Namespace::new();
    at.run(|| {
        let mut program = install(ProgramSettings { udp_prerouting: Some(true), ..settings() });
        let ranges = nets(&["10.1.0.0/24", "fd01::/64"]);
        let open = [(v4(2), BOTH), (v6(2), Open { ingress: true, egress: false })];
        program
            .replace(&Update { ranges: Some(&ranges), open: &open, judge_input: Some(true), ..Update::default() })
            .unwrap();
    });
    let expected = include_str!("golden/table.nft");
    let listed = listing(&at);
    assert_eq!(listed, expected, "\n{listed}");
}

#[test]
fn only_hooks_that_are_needed_are_used() {
    let at = Namespace::new();
    at.run(|| install(settings()));
    let hooks = at.sh("nft list table inet podgate | grep -o 'hook.*;'");
    let expected = "hook output priority filter; policy accept;
hook postrouting priority srcnat - 2; policy accept;
hook postrouting priority srcnat - 1; policy accept;
hook forward priority filter; policy accept;
";
    assert_eq!(hooks, expected);
}

#[test]
fn taking_over_checks_sources_or_not_as_the_new_settings_say() {
    let at = Namespace::new();
    let checks = |source_check| {
        let mut program = at.run(|| install(ProgramSettings { source_check, ..settings() }));
        assert!(program.intact().unwrap());
        at.sh("nft list chain inet podgate from_pod").contains("iif @pod_links fib saddr . iif oif 0")
    };
    // As an agent that knew nothing of it leaves the table.
    assert!(!checks(false));
    assert!(!base_chains(&at).iter().any(|chain| chain.contains("forward")));
    assert!(checks(true));
    assert!(base_chains(&at).iter().any(|chain| chain.contains("forward")));
    assert!(!checks(false) && checks(true));
}

#[test]
fn taking_over_keeps_base_chains_and_sets_and_rewrites_rules() {
    let at = Namespace::new();
    let ranges = nets(&["10.1.0.0/24"]);
    at.run(|| {
        let mut program = install(settings());
        let update =
            Update { ranges: Some(&ranges), open: &[(v4(2), BOTH)], judge_input: Some(true), ..Update::default() };
        program.replace(&update).unwrap();
    });
    let (before, bases) = (at.sh("nft -a list table inet podgate"), base_chains(&at));
    assert_eq!(bases.len(), 6, "{before}");
    let mut program = at.run(|| install(ProgramSettings { fail_open: true, queues: 7..=8, ..settings() }));
    assert_eq!(base_chains(&at), bases);
    assert_eq!((elements(&at, "ranges4"), elements(&at, "open_ingress4")), ("10.1.0.0/24".into(), "10.1.0.2".into()));
    let after = at.sh("nft -a list table inet podgate");
    assert_ne!(after, before);
    // The queue differs, as it should; nft can print it only where iptables is installed (or the kernel has its own).
    let words = |text: &str| {
        let lines = text.lines().map(|l| l.split(" # handle").next().unwrap_or_default().trim());
        lines
            .filter(|l| !l.is_empty() && !l.starts_with("queue ") && !l.contains(" since "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(words(&after), words(&before), "the same rules, one of each");
    assert!(after.contains("ct direction reply ct label ! 123 return"), "judging of input went on");
    assert!(program.intact().unwrap());
}

#[test]
fn chains_that_others_emptied_are_mended_by_installing_again() {
    let at = Namespace::new();
    at.run(|| install(settings()));
    let before = listing(&at);
    at.sh("nft flush table inet podgate; nft 'add rule inet podgate judge accept'");
    at.run(|| install(settings()));
    assert_eq!(listing(&at), before);
}

#[test]
fn a_table_of_another_shape_is_not_taken_over() {
    let at = Namespace::new();
    at.sh("nft 'table inet podgate { chain settle { type filter hook postrouting priority 5; }; }'");
    let before = at.sh("nft list ruleset");
    let error = at.run(|| Program::install(settings()).err().unwrap());
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    assert!(error.to_string().contains("podgate cleanup"), "{error}");
    assert_eq!(at.sh("nft list ruleset"), before);
}

#[test]
fn applying_adds_and_takes_out_and_replacing_forgets() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    let overlapping = nets(&["10.1.0.0/24", "10.1.1.0/24", "10.1.0.128/25", "10.2.0.0/16", "255.255.255.0/24"]);
    let open = [(v4(2), BOTH), (v4(3), Open { ingress: true, egress: false }), (v4(4), NEITHER)];
    program.apply(&Update { ranges: Some(&overlapping), open: &open, ..Update::default() }).unwrap();
    assert_eq!(elements(&at, "ranges4"), "10.1.0.0/23, 10.2.0.0/16, 255.255.255.0/24");
    assert_eq!(elements(&at, "open_ingress4"), "10.1.0.2, 10.1.0.3");
    assert_eq!(elements(&at, "open_egress4"), "10.1.0.2");

    // Again, and what is not there, and two words on one address.
    let open = [(v4(2), NEITHER), (v4(9), NEITHER), (v4(3), BOTH), (v4(5), NEITHER), (v4(5), BOTH), (v6(1), BOTH)];
    for _ in 0..2 {
        program.apply(&Update { open: &open, ..Update::default() }).unwrap();
        assert_eq!(elements(&at, "open_egress4"), "10.1.0.3, 10.1.0.5");
        assert_eq!(elements(&at, "open_ingress6"), "fd01::1");
    }
    assert_eq!(elements(&at, "ranges4"), "10.1.0.0/23, 10.2.0.0/16, 255.255.255.0/24");

    let all = nets(&["0.0.0.0/0", "::/0"]);
    program.replace(&Update { ranges: Some(&all), open: &[(v4(7), BOTH)], ..Update::default() }).unwrap();
    assert_eq!((elements(&at, "ranges4"), elements(&at, "ranges6")), ("0.0.0.0/0".into(), "::/0".into()));
    assert_eq!((elements(&at, "open_egress4"), elements(&at, "open_ingress6")), ("10.1.0.7".into(), String::new()));
    program.apply(&Update::default()).unwrap();
}

#[test]
fn input_is_judged_only_while_wanted_and_its_base_chains_stay() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    let rules = |at: &Namespace| at.sh("nft list chain inet podgate judge_input").lines().count() - 4;
    for _ in 0..2 {
        program.apply(&Update { judge_input: Some(true), ..Update::default() }).unwrap();
        assert_eq!(rules(&at), 6);
        let bases = base_chains(&at);
        program.apply(&Update { judge_input: Some(false), ..Update::default() }).unwrap();
        assert_eq!(rules(&at), 0);
        assert_eq!(base_chains(&at), bases);
        assert!(program.intact().unwrap());
    }
}

#[test]
fn cleanup_leaves_the_rules_of_others_as_they_were() {
    let at = Namespace::new();
    at.sh("nft 'table inet other { set s { type ipv4_addr; elements = { 1.2.3.4 }; }; chain c { type filter hook postrouting priority 98; ip saddr @s counter accept; }; }
table ip podgate { chain x { }; }'");
    let before = at.sh("nft -a list ruleset");
    at.run(|| {
        let mut program = install(ProgramSettings { udp_prerouting: Some(true), ..settings() });
        program.apply(&Update { judge_input: Some(true), ..Update::default() }).unwrap();
        assert_eq!(cleanup().unwrap(), Cleanup { table: true, connections: 0, alive: false });
        assert_eq!(cleanup().unwrap(), Cleanup { table: false, connections: 0, alive: false });
    });
    assert_eq!(at.sh("nft -a list ruleset"), before);
}

#[test]
fn probing_changes_nothing() {
    let at = Namespace::new();
    at.sh("nft 'table inet other { chain c { }; }'");
    let monitored = at.run(|| {
        let before = at.sh("nft -a list ruleset");
        let features = probe().unwrap_or_else(|e| panic!("{e}"));
        assert!(features.release > (4, 0), "{features:?}");
        (before, at.sh("nft -a list ruleset"))
    });
    assert_eq!(monitored.0, monitored.1);
}

#[test]
fn without_privileges_the_reason_is_told() {
    let error = Namespace::new().run(|| {
        // SAFETY: no pointers; the raw call changes this short-lived thread only, which the libc wrapper would not.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        [probe().err().unwrap(), Program::install(settings()).err().unwrap(), cleanup().err().unwrap()]
    });
    for error in error {
        assert!(matches!(error, Error::NotPermitted { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("NET_ADMIN") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn unusable_settings_are_refused_before_anything_is_done() {
    let at = Namespace::new();
    at.run(|| {
        let marks = Marks { packet: 0xf0f0, ..Marks::default() };
        let error = Program::install(ProgramSettings { marks, ..settings() }).err().unwrap();
        assert!(matches!(error, Error::Marks(MarksError::Packet(0xf0f0))), "{error}");
        #[allow(clippy::reversed_empty_ranges)]
        let error = Program::install(ProgramSettings { queues: 4..=3, ..settings() }).err().unwrap();
        assert!(matches!(error, Error::Queues { first: 4, last: 3 }), "{error}");
    });
    assert_eq!(at.sh("nft list ruleset"), "");
}

#[test]
fn whether_the_table_is_intact_is_known() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    assert!(program.intact().unwrap());
    at.sh("nft 'table inet other { chain c { }; }'");
    assert!(program.intact().unwrap(), "someone else's table is no matter");
    program.apply(&Update { open: &[(v4(2), BOTH)], ..Update::default() }).unwrap();
    assert!(program.intact().unwrap());
    for damage in [
        "nft flush chain inet podgate judge",
        "nft add rule inet podgate decide accept",
        "nft insert rule inet podgate postrouting accept",
        "nft 'chain inet podgate postrouting { policy drop; }'",
        "nft add chain inet podgate more",
        "nft flush ruleset",
    ] {
        at.sh(damage);
        assert!(!program.intact().unwrap(), "{damage}");
        assert!(!program.intact().unwrap(), "{damage}");
        program = at.run(|| install(settings()));
        assert!(program.intact().unwrap(), "{damage}");
    }
}

#[test]
fn the_guard_notices_what_others_do_to_the_table_only() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    let mut guard = at.run(|| program.guard().unwrap());
    let waker = guard.waker();
    for (script, touched) in [
        ("nft add table inet other", false),
        ("nft add rule inet podgate judge accept", true),
        ("nft add element inet podgate open_egress4 '{ 10.1.0.9 }'", true),
        ("nft flush ruleset", true),
    ] {
        at.sh(script);
        waker.wake();
        if touched {
            assert_eq!(guard.changed().unwrap(), Changed::Touched, "{script}");
        }
        assert_eq!(guard.changed().unwrap(), Changed::Woken, "{script}");
    }
    // What the program does itself is no news.
    program = at.run(|| install(settings()));
    guard = at.run(|| program.guard().unwrap());
    program.apply(&Update { open: &[(v4(2), BOTH)], judge_input: Some(true), ..Update::default() }).unwrap();
    guard.waker().wake();
    assert_eq!(guard.changed().unwrap(), Changed::Woken);
}

#[test]
fn a_hundred_thousand_addresses_are_one_change() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    let v4 = (0..50_000_u32).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + i)));
    let v6 = (0..50_000_u128).map(|i| IpAddr::V6(Ipv6Addr::from_bits((0xfd01 << 112) + i)));
    let open: Vec<(IpAddr, Open)> = v4.chain(v6).map(|address| (address, BOTH)).collect();
    let ranges = nets(&["10.0.0.0/8", "fd01::/64"]);
    for round in 1..=2 {
        let begun = Instant::now();
        program.replace(&Update { ranges: Some(&ranges), open: &open, ..Update::default() }).unwrap();
        let took = begun.elapsed();
        println!("replacing 100,000 open addresses (200,000 elements), round {round}: {took:?}");
        assert!(took.as_secs() < 20, "{took:?}");
    }
    for (set, first) in [("open_ingress4", "10.0.0.0"), ("open_egress6", "fd01::c34f")] {
        let count = at.sh(&format!("nft list set inet podgate {set} | grep -oE '[0-9a-f]+[.:][0-9a-f.:]+' | wc -l"));
        assert_eq!(count.trim(), "50000", "{set}");
        at.sh(&format!("nft get element inet podgate {set} '{{ {first} }}'"));
    }
    let begun = Instant::now();
    let closed: Vec<_> = open.iter().map(|(address, _)| (*address, NEITHER)).collect();
    program.apply(&Update { open: &closed, ..Update::default() }).unwrap();
    println!("taking them all out again: {:?}", begun.elapsed());
    assert_eq!(elements(&at, "open_egress6"), "");
}

#[test]
fn other_bits_in_new_settings_are_written_down_for_cleanup() {
    let at = Namespace::new();
    let marks = Marks { packet: 0xf_0000, connection: 0x2, label: 7 };
    at.run(|| install(settings()));
    at.run(|| install(ProgramSettings { marks, ..settings() }));
    let listed = listing(&at);
    assert!(listed.contains("podgate bits: packet 0xf0000 connection 0x2 label 7"), "{listed}");
    assert!(!listed.contains("0x3c00"), "{listed}");
}

fn claim(agent: &str, expect: Expect) -> Claim<'_> {
    Claim { agent, expect, above: 0, returns: 0 }
}

/// What an agent without pods says of the sets.
fn nothing() -> Update<'static> {
    Update { ranges: Some(&[]), ..Update::default() }
}

#[test]
fn a_superseded_owner_can_write_nothing_and_remove_nothing() {
    let at = Namespace::new();
    let old =
        |at: &Namespace| at.run(|| Program::claim(settings(), &claim("old", Expect::Unchanged(None)), None).unwrap());
    let mut old = old(&at);
    assert_eq!(old.owner().generation, 1);
    let ranges = nets(&["10.1.0.0/24"]);
    old.replace(&Update { ranges: Some(&ranges), open: &[(v4(2), BOTH)], ..Update::default() }).unwrap();
    let bases = base_chains(&at);
    let new = at.run(|| {
        let settings = ProgramSettings { queues: 8..=9, ..settings() };
        let first = Update { ranges: Some(&ranges), open: &[(v4(3), BOTH)], ..Update::default() };
        Program::claim(settings, &claim("new", Expect::Unchanged(Some(1))), Some(&first)).unwrap()
    });
    assert_eq!(new.owner().generation, 2);
    assert_eq!(at.run(|| owner().unwrap().unwrap().agent), "new");
    assert_eq!(base_chains(&at), bases);
    let before = at.sh("nft -a list table inet podgate");
    for update in [
        Update { open: &[(v4(4), BOTH)], ..Update::default() },
        Update { ranges: Some(&[]), ..Update::default() },
        Update { judge_input: Some(true), ..Update::default() },
    ] {
        let error = old.apply(&update).unwrap_err();
        assert!(matches!(error, Error::NotOwner), "{error}");
    }
    let error = old.remove().unwrap_err();
    assert!(matches!(error, Error::NotOwner), "{error}");
    assert_eq!(at.sh("nft -a list table inet podgate"), before);
    assert_eq!(elements(&at, "open_ingress4"), "10.1.0.3");
    // The owner can.
    assert_eq!(at.run(|| new.remove().unwrap()), Cleanup { table: true, connections: 0, alive: false });
    assert_eq!(at.run(|| owner().unwrap()), None);
}

#[test]
fn of_several_claims_at_the_same_moment_one_succeeds() {
    let at = Namespace::new();
    for round in 0..4 {
        let names: Vec<String> = (0..4).map(|n| format!("agent{n}")).collect();
        let expected = at.run(|| owner().unwrap()).map(|o| o.generation);
        assert_eq!(expected, (round > 0).then_some(round));
        let results: Vec<_> = std::thread::scope(|scope| {
            let claims: Vec<_> = names
                .iter()
                .map(|name| {
                    let at = &at;
                    let claim = claim(name, Expect::Unchanged(expected));
                    scope.spawn(move || at.run(|| Program::claim(settings(), &claim, Some(&nothing()))))
                })
                .collect();
            claims.into_iter().map(|c| c.join().unwrap()).collect()
        });
        let winners: Vec<String> =
            results.iter().filter_map(|r| r.as_ref().ok()).map(|p| p.owner().agent.clone()).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::NotOwner))));
        assert_eq!(at.run(|| owner().unwrap().unwrap().agent), winners[0]);
    }
}

#[test]
fn a_claim_that_was_taken_out_by_hand_stops_the_owner_until_it_claims_again() {
    let at = Namespace::new();
    let mut program = at.run(|| Program::claim(settings(), &claim("a", Expect::Anything), None).unwrap());
    at.sh("nft flush set inet podgate owner");
    let error = program.apply(&Update { open: &[(v4(2), BOTH)], ..Update::default() }).unwrap_err();
    assert!(matches!(error, Error::NotOwner), "{error}");
    assert_eq!(elements(&at, "open_ingress4"), "");
    let mine = claim("a", Expect::Mine(program.owner().generation));
    program = at.run(|| Program::claim(settings(), &mine, Some(&nothing())).unwrap());
    assert_eq!(program.owner().generation, 1);
    program.apply(&Update { open: &[(v4(2), BOTH)], ..Update::default() }).unwrap();
}

#[test]
fn a_claim_makes_the_sets_what_it_says_whatever_they_held() {
    let at = Namespace::new();
    let ranges = nets(&["10.1.0.0/24", "255.255.255.0/24", "fd01::/64"]);
    let contents = |at: &Namespace| {
        ["ranges4", "ranges6", "open_ingress4", "open_egress4", "open_ingress6"].map(|set| elements(at, set))
    };
    let claimed = |name: &str, update: &Update<'_>| {
        at.run(|| Program::claim(settings(), &claim(name, Expect::Anything), Some(update)).unwrap());
        contents(&at)
    };
    let first =
        Update { ranges: Some(&ranges), open: &[(v4(2), BOTH), (v4(3), BOTH), (v6(2), BOTH)], ..Update::default() };
    let expected =
        ["10.1.0.0/24, 255.255.255.0/24", "fd01::/64", "10.1.0.2, 10.1.0.3", "10.1.0.2, 10.1.0.3", "fd01::2"];
    assert_eq!(claimed("a", &first), expected);
    assert_eq!(claimed("b", &first), expected, "what stands stays");
    let ranges = nets(&["10.1.0.0/16", "fd01::/64"]);
    let open = [(v4(3), Open { ingress: true, egress: false }), (v4(4), BOTH), (v4(5), NEITHER)];
    let second = Update { ranges: Some(&ranges), open: &open, ..Update::default() };
    assert_eq!(claimed("c", &second), ["10.1.0.0/16", "fd01::/64", "10.1.0.3, 10.1.0.4", "10.1.0.4", ""]);
    assert_eq!(claimed("d", &nothing()), [""; 5]);
}

#[test]
fn addresses_are_rechecked_until_told_otherwise() {
    let at = Namespace::new();
    let mut program = at.run(|| install(settings()));
    let plain = at.sh("nft list chain inet podgate accepted");
    assert!(!plain.contains("recheck"), "{plain}");
    for _ in 0..2 {
        let update = Update { open: &[(v4(9), BOTH)], ..Update::default() };
        program.apply_and_recheck(&update, &[v4(2), v6(2)], Forget::default()).unwrap();
        program.apply_and_recheck(&Update::default(), &[v4(3)], Forget::default()).unwrap();
        assert_eq!(elements(&at, "recheck4"), "10.1.0.2, 10.1.0.3");
        assert_eq!((elements(&at, "recheck6"), elements(&at, "open_egress4")), ("fd01::2".into(), "10.1.0.9".into()));
        let looked_up = at.sh("nft list chain inet podgate accepted");
        for rule in ["ip saddr @recheck4 return", "ip6 daddr @recheck6 return"] {
            assert!(looked_up.contains(rule), "{looked_up}");
        }
        assert!(program.intact().unwrap());
        program.recheck_only(&[v4(3)]).unwrap();
        assert_eq!((elements(&at, "recheck4"), elements(&at, "recheck6")), ("10.1.0.3".into(), String::new()));
        assert!(at.sh("nft list chain inet podgate accepted").contains("recheck"));
        program.recheck_only(&[]).unwrap();
        assert_eq!(at.sh("nft list chain inet podgate accepted"), plain);
        assert!(program.intact().unwrap());
    }
    // Another agent takes it over as it is.
    program.apply_and_recheck(&Update::default(), &[v4(2)], Forget::default()).unwrap();
    let mut next = at.run(|| Program::claim(settings(), &claim("b", Expect::Anything), Some(&nothing())).unwrap());
    assert_eq!(elements(&at, "recheck4"), "10.1.0.2");
    assert!(at.sh("nft list chain inet podgate accepted").contains("recheck"));
    next.recheck_only(&[]).unwrap();
    assert_eq!(at.sh("nft list chain inet podgate accepted"), plain);
    assert!(next.intact().unwrap());
    at.sh("nft add rule inet podgate accepted accept");
    assert!(!next.intact().unwrap());
}
