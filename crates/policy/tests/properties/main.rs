//! Properties over random worlds: the engine's tables against the naive reference, incremental builds against builds
//! from nothing. `PODGATE_SEED` and `PODGATE_WORLDS` repeat a run or make it longer.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, unreachable_pub)] // a test may; and nothing reaches into a test binary

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod check;
mod flows;
mod generate;
mod independence;
mod sequences;
mod text;
mod worlds;
