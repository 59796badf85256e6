//! Notices when someone else changes our table, `nft flush ruleset` first of all: that opens the node until mended.
//!
//! It only says so; looking closer (`Program::intact`) and mending (`Program::install`) are the caller's.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::netlink::{Channel, attribute, text};
use crate::program::TABLE;
use crate::program::standing::NFTA_TABLE;
use crate::program::transaction::body;
use crate::queue::Waker;

const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFPROTO_INET: u8 = 1;

/// A watch on our table.
pub struct Guard {
    channel: Channel,
    ours: u32,
    waker: Waker,
}

/// What ended a wait of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Someone else changed something in our table, or so much changed that notices were lost: look closer.
    Touched,
    /// The waker was used.
    Woken,
}

impl Guard {
    /// Watches from now on; changes by the socket with port id `ours` don't count.
    pub(crate) fn new(ours: u32, waker: Waker) -> Result<Self, Error> {
        let mut channel = Channel::open(NETLINK_NETFILTER)?;
        // The notices of a large change of our own pass through here too.
        channel.receive_room(16 << 20);
        channel.join(NFNLGRP_NFTABLES)?;
        Ok(Self { channel, ours, waker })
    }

    /// Ends the wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until someone else changes our table. What happened before the waker was used is told before that.
    pub fn changed(&mut self) -> Result<Changed, Error> {
        let failed = |error| Error::io("watch our nftables table", error);
        loop {
            if self.drain().map_err(failed)? {
                return Ok(Changed::Touched);
            }
            if self.waker.take() {
                return Ok(Changed::Woken);
            }
            self.channel.wait(&self.waker).map_err(failed)?;
        }
    }

    /// Reads all notices that wait: is one of them about our table and not by us?
    fn drain(&mut self) -> io::Result<bool> {
        let (ours, mut touched) = (self.ours, false);
        loop {
            let read = self.channel.read(&mut |message| {
                touched |= message.kind >> 8 == NFNL_SUBSYS_NFTABLES
                    && message.kind & 0xff != NFT_MSG_NEWGEN
                    && message.port != ours
                    && message.payload.first() == Some(&NFPROTO_INET)
                    && attribute(body(&message), NFTA_TABLE).map(text) == Some(TABLE);
            });
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(touched),
                // Notices were lost: perhaps such a one.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => touched = true,
                Err(error) => return Err(error),
            }
        }
    }
}
