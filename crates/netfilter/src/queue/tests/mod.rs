//! Both receivers on real packets: each test is a thread in a network namespace of its own.

mod fates;
mod limits;
mod rig;
