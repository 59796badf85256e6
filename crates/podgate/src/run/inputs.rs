//! Who speaks to the control loop: the source of truth, routes, the ruleset, signals, the clock. Each is a task or a
//! thread of its own that sends messages and knows nothing else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::Thread;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_netfilter::{Changed, Collision, Guard, Links, RouteWatch};
use podgate_watch::Event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Sender};

use super::owner::Notice;
use super::revoke::Judged;
use crate::cache::Offer;

/// What the loop waits for.
#[derive(Debug)]
pub(crate) enum Input {
    /// The source of truth speaks.
    Source(Event),
    /// Host routes to these addresses went away.
    RoutesGone(Vec<IpAddr>),
    /// These of them are back, over the same links.
    RoutesBack(Vec<IpAddr>),
    /// Links lead elsewhere.
    Links(Links),
    /// Somebody else changed our table, as the guard of this number noticed.
    RulesetChanged(u64),
    /// Rules of other tables changed: one that uses bits of our marks is there, or one is gone.
    OthersChanged {
        /// It is there.
        collides: bool,
    },
    /// Time to look at other tables' rules.
    LookAtOthers,
    /// Which of them use bits of our marks.
    Collisions(BTreeSet<Collision>),
    /// Verdicts that the kernel could repeat; none: it is only time to look at those that it does.
    Offered(Vec<Offer>),
    /// Established connections have been judged again.
    Judged(Judged),
    /// News of the agent that owns the table.
    Ownership(Notice),
    /// Workers cannot keep up with what comes up.
    Crowd,
    /// Time to look at the pods' shares of the queue.
    ShareDue,
    /// Time to try once more what failed.
    TryAgain,
    /// The start-up period is over.
    LooseOver,
    /// The agent is to end, and why.
    Stop(End),
}

/// Why the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to.
    Asked(&'static str),
    /// It cannot go on: whoever started it must see that.
    Failed(&'static str),
}

/// Messages that may wait; a source that is faster than the loop waits in turn. Few, as one may be a thousand objects of a
/// list.
pub(crate) const WAITING: usize = 16;

/// Messages that go into one build at most.
pub(crate) const TOGETHER: usize = 1024;

/// SIGTERM and SIGINT.
pub(crate) fn signals(inputs: Sender<Input>) -> Result<()> {
    for (kind, why) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let mut signals = signal(kind).with_context(|| format!("waiting for {why}"))?;
        let inputs = inputs.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if inputs.send(Input::Stop(End::Asked(why))).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// A source: `follow` sends its events until it cannot go on.
pub(crate) fn source<F, E>(name: &'static str, follow: impl FnOnce(Sender<Event>) -> F, inputs: Sender<Input>)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send,
{
    let (events, mut received) = mpsc::channel(WAITING);
    let stopper = inputs.clone();
    let following = follow(events);
    tokio::spawn(async move {
        if let Err(error) = following.await {
            tracing::error!(%error, "cannot follow {name} any more");
            // The receiver may be gone already: then the agent is ending anyway.
            let _ = stopper.send(Input::Stop(End::Failed("the source cannot be followed"))).await;
        }
    });
    tokio::spawn(async move {
        while let Some(event) = received.recv().await {
            if inputs.send(Input::Source(event)).await.is_err() {
                return;
            }
        }
    });
}

/// The end of the start-up period.
pub(crate) fn strict_after(loose: Duration, inputs: Sender<Input>) {
    tokio::spawn(async move {
        tokio::time::sleep(loose).await;
        let _ = inputs.send(Input::LooseOver).await;
    });
}

/// A message to come in a while.
pub(crate) fn later(time: Duration, input: Input, sender: &Sender<Input>) {
    let sender = sender.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        let _ = sender.send(input).await;
    });
}

/// Workers that cannot keep up, by a thread that ends with the process; unparking it is telling it.
pub(crate) fn crowds(inputs: Sender<Input>) -> Result<Thread> {
    let work = move || {
        loop {
            std::thread::park();
            if inputs.blocking_send(Input::Crowd).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("crowds".to_owned()).spawn(work).context("starting a thread")?;
    Ok(thread.thread().clone())
}

/// Time to try again what failed: not so soon that a lasting failure floods the log, nor so late that anybody waits.
pub(crate) fn try_again(sender: &Sender<Input>) {
    let sender = sender.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = sender.send(Input::TryAgain).await;
    });
}

/// Host routes that go away, by a thread that ends with the process.
pub(crate) fn routes(inputs: Sender<Input>) -> Result<()> {
    let mut watch = RouteWatch::new().context("watching routes")?;
    let work = move || {
        loop {
            match watch.gone() {
                Ok(gone) => {
                    let links = watch.links().map(Input::Links);
                    for input in links.into_iter().chain([Input::RoutesGone(gone), Input::RoutesBack(watch.back())]) {
                        if inputs.blocking_send(input).is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot watch routes any more: addresses that pods leave behind stay known");
                    let _ = inputs.blocking_send(Input::Stop(End::Failed("routes cannot be watched")));
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("routes".to_owned()).spawn(work).context("starting a thread")?;
    Ok(())
}

/// Others' changes of our table, by a thread that ends when the guard is woken. `number` is the guard's.
pub(crate) fn ruleset(mut guard: Guard, number: u64, inputs: Sender<Input>) -> std::io::Result<()> {
    let work = move || {
        loop {
            match guard.changed() {
                Ok(Changed::Woken) => return,
                Ok(changed) => {
                    let input = match changed {
                        Changed::Others { collides } => Input::OthersChanged { collides },
                        _ => Input::RulesetChanged(number),
                    };
                    if inputs.blocking_send(input).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot watch the ruleset any more: others' changes would stay");
                    let _ = inputs.blocking_send(Input::Stop(End::Failed("the ruleset cannot be watched")));
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("ruleset".to_owned()).spawn(work)?;
    Ok(())
}
