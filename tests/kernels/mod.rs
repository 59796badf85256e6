//! What some kernels can show and others can not: native `queue`, SCTP, IPVS, UDP judged before routing. A test whose
//! kernel lacks what it needs is told and counted as not run, on standard error, where the harness does not hide it;
//! in the virtual machine of `make test-kernels`, which has it all, that is a failure.

mod ipvs;
mod queue;
mod sctp;

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether this kernel has what a test needs; if not (for the reason given) that is told.
fn has(feature: &str, found: Result<(), String>) -> bool {
    static NOT_RUN: AtomicU32 = AtomicU32::new(0);
    let Err(reason) = found else { return true };
    let wanted = std::env::var("PODGATE_KERNEL_HAS").unwrap_or_default();
    assert!(!wanted.split(' ').any(|w| w == feature), "this kernel is said to have {feature}: {reason}");
    let count = NOT_RUN.fetch_add(1, Ordering::Relaxed) + 1;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`: the harness keeps that to itself when a test passes.
    let line = format!(
        "kernels: NOT RUN here ({count} so far): {test}: no {feature}: {reason}; `make test-kernels` runs it\n"
    );
    std::io::stderr().write_all(line.as_bytes()).expect("standard error");
    false
}

/// Major and minor number of the running kernel.
pub(crate) fn release() -> (u32, u32) {
    let output = std::process::Command::new("uname").arg("-r").output().expect("uname");
    let text = String::from_utf8(output.stdout).expect("a release");
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().expect("a number"));
    (numbers.next().expect("a major number"), numbers.next().expect("a minor number"))
}
