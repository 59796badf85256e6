//! [`take`]: one measurement of one side.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::load::flood::{self, Flood};
use crate::load::{Latency, connections, datagrams, established};
use crate::manifests::BULK;
use crate::plan::Measure;
use crate::sides::Side;

/// How long a flood lasts before it is looked at what becomes of others.
const WARM_UP: Duration = Duration::from_millis(300);

/// What came of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// In the measure's unit.
    pub(crate) rate: f64,
    /// Of those that were made.
    pub(crate) latency: Option<Latency>,
    /// Packets that did not arrive, connections that failed: as a share of all.
    pub(crate) lost: Option<f64>,
    /// Verdicts of user space per connection, packet or exchange that went through.
    pub(crate) verdicts: Option<f64>,
    /// Processor time of what judges in user space, in nanoseconds: per verdict; in a flood, per second.
    pub(crate) work: Option<f64>,
    /// Packets of the flood that were sent per second.
    pub(crate) flood: Option<f64>,
}

/// A share of failed connections that is no accident.
const MANY: f64 = 0.01;
/// Below so many verdicts per connection or packet, processor time per verdict says nothing.
const SELDOM: f64 = 0.1;

/// One turn of one side. It leaves no entries in conntrack's table, in which all sides are.
pub(crate) fn take(side: &Side, measure: Measure, during: Duration) -> Result<Sample> {
    let sample = sample(side, measure, during)?;
    side.forget()?;
    Ok(sample)
}

fn sample(side: &Side, measure: Measure, during: Duration) -> Result<Sample> {
    let (client, server) = (side.client.netns(), side.server_address());
    let connect = |at_once| connections::run(client, server, at_once, during);
    match measure {
        Measure::Connections16 | Measure::Connections1 => {
            let at_once = if measure == Measure::Connections1 { 1 } else { 16 };
            judged(side, || {
                let made = connect(at_once)?;
                ensure!(made.lost() < MANY, "{:.2} % of connections failed", made.lost() * 100.0);
                Ok((Sample { lost: Some(made.lost()), ..of_connections(made) }, made.made))
            })
        }
        Measure::Udp => judged(side, || {
            let sent = datagrams::run(&side.client, &side.server, during / 2)?;
            let lost = Some(1.0 - sent.arrived as f64 / sent.sent.max(1) as f64);
            Ok((Sample { lost, ..plain(sent.per_second) }, sent.arrived))
        }),
        Measure::Throughput => {
            let to = SocketAddr::new(server.ip(), BULK);
            Ok(plain(established::throughput(client, to, during)? * 8.0 / 1e9))
        }
        Measure::Exchanges => {
            let made = established::exchanges(client, server, 16, during)?;
            Ok(of_connections(made))
        }
        Measure::FloodUdp => flooded(side, flood::Kind::Udp, || connect(16)),
        Measure::FloodSyn => flooded(side, flood::Kind::Syn, || connect(16)),
    }
}

fn plain(rate: f64) -> Sample {
    Sample { rate, latency: None, lost: None, verdicts: None, work: None, flood: None }
}

fn of_connections(made: connections::Made) -> Sample {
    Sample { latency: Some(made.latency), ..plain(made.per_second) }
}

/// With the verdicts that it took, and their cost.
fn judged(side: &Side, work: impl FnOnce() -> Result<(Sample, u64)>) -> Result<Sample> {
    let (verdicts, worked) = (side.judged()?, side.worked()?);
    let (sample, events) = work()?;
    let worked = side.worked()?.saturating_sub(worked);
    let verdicts = side.judged()? - verdicts;
    let each = verdicts as f64 / events.max(1) as f64;
    let work = (each > SELDOM).then(|| worked as f64 / verdicts as f64);
    Ok(Sample { verdicts: Some(each), work, ..sample })
}

/// During a flood, of which nothing may arrive.
fn flooded(
    side: &Side,
    kind: flood::Kind,
    connect: impl FnOnce() -> std::io::Result<connections::Made>,
) -> Result<Sample> {
    let arrived = flood::arrived(side.server.netns())?;
    let flood = Flood::start(kind, &side.flooder, side.server.v4())?;
    std::thread::sleep(WARM_UP);
    let (start, sent, worked) = (Instant::now(), flood.sent(), side.worked()?);
    let made = connect()?;
    let (took, offered) = (start.elapsed().as_secs_f64(), flood.sent() - sent);
    let worked = side.worked()?.saturating_sub(worked);
    let sent = flood.end()?;
    let arrived = flood::arrived(side.server.netns())? - arrived;
    // A reset of the server may also be its answer to a client that gave up.
    ensure!(arrived <= sent / 1000 + made.failed, "{arrived} of {sent} forbidden packets arrived");
    let work = (worked > 0).then(|| worked as f64 / took);
    Ok(Sample { lost: Some(made.lost()), flood: Some(offered as f64 / took), work, ..of_connections(made) })
}
