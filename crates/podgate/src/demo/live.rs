//! The last act: a policy is edited while a client keeps connecting, and the time until it sees the change.

use std::time::Duration;

use anyhow::Result;
use podgate_sandbox::{Connection, DENY_WAIT, Outcome, PATIENCE};

use super::agent::Agent;
use super::cast::Cast;
use super::examples::EDITED;
use super::interrupt::Interrupt;
use super::report::tell;
use super::stage::Stage;

/// How often the policy is edited to and fro.
const ROUNDS: usize = 5;
/// How often the client connects.
const INTERVAL: Duration = Duration::from_millis(1);
/// The policy is in force long before that, or something is wrong.
const LIMIT: Duration = Duration::from_secs(5);

/// The times that changes took to show.
#[derive(Debug, Default)]
pub(super) struct Edited {
    /// From the edit to the first new connection that did not come about.
    pub(super) closed: Vec<Duration>,
    /// From the edit to the first that came about.
    pub(super) opened: Vec<Duration>,
    /// An established connection that the edit forbids was cut each time.
    pub(super) cut: bool,
    /// It lived on each time that it was allowed again.
    pub(super) revived: bool,
    /// Some change did not show at all.
    pub(super) missing: bool,
}

impl Edited {
    /// Every change showed.
    pub(super) fn as_expected(&self) -> bool {
        self.cut && self.revived && !self.missing
    }
}

/// Edits the policy to and fro.
pub(super) fn perform(
    number: usize,
    cast: &Cast,
    stage: &Stage,
    agent: &mut Agent,
    interrupt: &Interrupt,
) -> Result<Edited> {
    tell!("{number:>2}  A policy is edited while a client keeps connecting ({ROUNDS} times to and fro)");
    let (client, server) = (cast.pod("shop/busybox-access")?.client(), cast.pod("shop/nginx")?.v4());
    let open = EDITED.text();
    let closed = open.replace(r#"access: "true""#, r#"access: "revoked""#);
    stage.show(EDITED)?;
    agent.await_next()?;
    let mut edited = Edited { cut: true, revived: true, ..Edited::default() };
    let mut established = client.open(server, 80, PATIENCE).and_then(|mut c| c.ping(PATIENCE).map(|_| c));
    for _ in 0..ROUNDS {
        if interrupt.happened() {
            break;
        }
        let closing = stage.write("policy.yaml", &closed)?;
        let refused = client.first_closed(server, 80, INTERVAL, LIMIT)?;
        note(&mut edited.closed, &mut edited.missing, refused.map(|moment| moment - closing));
        agent.await_next()?;
        edited.cut &= !answers(&mut established, DENY_WAIT);
        let opening = stage.write("policy.yaml", &open)?;
        let accepted = client.first_open(server, 80, INTERVAL, LIMIT)?;
        note(&mut edited.opened, &mut edited.missing, accepted.map(|moment| moment - opening));
        agent.await_next()?;
        edited.revived &= answers(&mut established, PATIENCE);
    }
    agent.scrape()?;
    let line = |times: &[Duration]| match (median(times), times.iter().max()) {
        (Some(median), Some(worst)) => format!("{:.1} ms (worst {:.1} ms)", millis(median), millis(*worst)),
        _ => "never".to_owned(),
    };
    tell!("    from the save to the first refused connection   {}", line(&edited.closed));
    tell!("    from the save to the first accepted connection  {}", line(&edited.opened));
    let established = match (edited.cut, edited.revived) {
        (true, true) => "cut, and alive again when it was allowed again",
        (true, false) => "cut, but NOT ALIVE when it was allowed again",
        (false, _) => "NOT CUT",
    };
    tell!("    an established connection                       {established}");
    Ok(edited)
}

/// Whether an established connection still carries an echo.
fn answers(connection: &mut Result<Connection, Outcome>, timeout: Duration) -> bool {
    connection.as_mut().is_ok_and(|c| c.ping(timeout).is_ok())
}

fn note(times: &mut Vec<Duration>, missing: &mut bool, time: Option<Duration>) {
    match time {
        Some(time) => times.push(time),
        None => *missing = true,
    }
}

/// The middle one.
pub(super) fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

/// As people read it.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
