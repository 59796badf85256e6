//! One worker, driven step by step: a scripted queue, a judge of known answers, no clock to wait for.

mod cost;
mod holding;
mod judging;
mod rejecting;
mod rig;
mod threads;
