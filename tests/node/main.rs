//! The agent on real packets: each test has a node of its own in network namespaces, with the real binary on it.
//!
//! `kit` is what all stand on; the other rooms are named for what they show.
#![forbid(unsafe_code)]

mod addresses;
mod apiserver;
mod attacks;
mod boot;
mod bridged;
mod cached;
mod clock;
mod doors;
mod established;
mod flows;
mod forged;
mod handover;
mod hold;
mod kernel;
#[path = "../kernels/mod.rs"]
mod kernels;
mod kit;
mod large;
mod lifecycle;
mod load;
mod marks;
mod midstream;
mod observed;
mod others;
mod overload;
mod own_node;
mod packets;
mod pressure;
mod reject;
mod share;
mod status;
mod stopped;
mod walkthrough;
