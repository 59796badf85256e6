//! What the agent tells: metrics, readiness, its status, deny events, the log.
//!
//! ```text
//!   control loop ── sets ──▶ State { counters and gauges, Readiness, Registry } ◀── asks ── http: /metrics /readyz /healthz
//!   workers ── counters by number ──▶ DataPlane ─┐ names and labels are made at scrape
//!   Publication ── rule book ───────▶ RuleSeries ┴▶ Registry
//!   workers ── ring of denies ──▶ events ──▶ one log line each, rate-limited
//! ```
//!
//! Use: [`logging::init`] first; [`State::new`]; [`http::serve`] as soon as there is a state, so that a start that hangs
//! can be asked why; `state.register(DataPlane::new(…))` and `state.watch_over(liveness::workers(…))` when the workers run;
//! [`events::start`]; then [`State::enforced`] after each build, `state.readiness.synced()` once, and
//! `state.readiness.hold(reason)` for as long as something keeps the agent from enforcing; `state.freshness(…)` and
//! what else there is to set in words ([`facts`]) when it changes. [`http::serve`] must be
//! called in the network namespace of the queues: their statistics are read by its thread.
//!
//! # How many series
//!
//! Bounded, whatever the cluster does, by `R = min(rules, --max-rule-series)` where *rules* are those of policies
//! about pods of this node, default denies among them:
//!
//! | metric | series |
//! |---|---|
//! | `podgate_rule_verdicts_total` | R, and 2 more when there are more rules than that |
//! | `podgate_default_deny_total` | at most R, and 1 more |
//! | `podgate_queue_depth`, `podgate_queue_dropped_total` | 1 and 2 per queue |
//! | `podgate_source_up`, `podgate_source_failing_seconds` | 1 per resource of the source: at most 8 |
//! | `podgate_overload_dropped_packets_total` | 1 per pod that had more than its share of the queue: at most 1,001 |
//! | everything else | about 100 |
//!
//! No label holds an address or a port, and only `podgate_overload_dropped_packets_total` names pods. A rule past the
//! limit counts in `rule="other"`, the gauge `podgate_rule_series_overflow` says how many do, and the limit is a setting.
//! Labels of a rule come from names of policies, so whoever may create policies makes series: up to the limit, and no
//! further.
//!
//! Not here: what is counted on the packet path (`podgate_engine::counters`), and what the words mean to a policy.

mod bucket;
mod cache;
mod conntrack;
mod data_plane;
pub(crate) mod events;
pub(crate) mod facts;
mod family;
mod forged;
pub(crate) mod http;
pub(crate) mod liveness;
pub(crate) mod logging;
pub(crate) mod process;
mod readiness;
mod rules;
mod saving;
pub(crate) mod share;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use data_plane::DataPlane;
pub(crate) use readiness::Hold;
pub(crate) use rules::DEFAULT_LIMIT as DEFAULT_RULE_SERIES;
pub(crate) use saving::Saving;
pub(crate) use share::Shares;
pub(crate) use state::State;
