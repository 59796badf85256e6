//! `podgate run` through the binary, as far as it gets without touching the kernel: settings and usage errors. What it
//! does to packets is in tests/node.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod cli;

use cli::Desk;

#[test]
fn a_missing_directory_is_a_usage_error_that_says_so() {
    let said = Desk::new(&[]).run("run --manifests nowhere");
    assert!(said.input_error().contains("nowhere is no directory"), "{said:?}");
}

#[test]
fn a_setting_may_come_from_the_environment() {
    let desk = Desk::new(&[("m/none.yaml", "")]);
    let said = desk.run_in(&[("PODGATE_MANIFESTS", "m"), ("PODGATE_MARK_MASK", "0x5")], "run");
    assert!(said.input_error().contains("four adjacent bits"), "{said:?}");
    // A flag goes before the environment.
    let said = desk.run_in(&[("PODGATE_MANIFESTS", "m"), ("PODGATE_CT_MARK", "1")], "run --ct-mark 3");
    assert!(said.input_error().contains("--ct-mark 0x3"), "{said:?}");
}

#[test]
fn a_switch_in_the_environment_is_on_or_off_in_the_usual_words() {
    let desk = Desk::new(&[]);
    for word in ["1", "true", "yes", "on", "0", "false", "no", "off"] {
        let said = desk.run_in(&[("PODGATE_FAIL_OPEN", word)], "run --manifests nowhere");
        assert!(said.input_error().contains("nowhere is no directory"), "{said:?}");
    }
    let said = desk.run_in(&[("PODGATE_FAIL_OPEN", "perhaps")], "run --manifests nowhere");
    assert!(said.input_error().contains("perhaps"), "{said:?}");
}

#[test]
fn settings_that_cannot_be_are_refused_with_what_to_give() {
    let desk = Desk::new(&[("m/none.yaml", "")]);
    for (flags, said_of_it) in [
        ("--mark-mask 0xf0f", "four adjacent bits"),
        ("--ct-mark 0x3", "one bit"),
        ("--ct-label 128", "128"),
        ("--queues 0", "0"),
        ("--queue-base 65535 --queues 2", "or a lower one"),
        ("--pod-cidr 10.0.0.0/33", "10.0.0.0/33"),
        ("--on-exit perhaps", "keep, remove"),
        ("--http nowhere", "nowhere"),
        ("--node ../../x", "no valid name"),
        ("--log =loud=", "=loud="),
    ] {
        let said = desk.run(&format!("run --manifests m {flags}"));
        assert!(said.input_error().contains(said_of_it), "{flags}: {said:?}");
    }
}

#[test]
fn commands_that_are_not_there_are_usage_errors() {
    let desk = Desk::new(&[]);
    assert!(desk.run("enforce").input_error().contains("enforce"));
    assert!(desk.run("").input_error().contains("Usage: podgate"));
}
