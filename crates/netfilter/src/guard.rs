//! Notices when someone else changes our table, `nft flush ruleset` first of all: that opens the node until mended.
//!
//! It only says so; looking closer (`Program::intact`) and mending (`Program::install`) are the caller's.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::collisions::concerns;
use crate::marks::Marks;
use crate::netlink::{Channel, attribute, text};
use crate::program::TABLE;
use crate::program::standing::NFTA_TABLE;
use crate::program::transaction::body;
use crate::queue::Waker;

const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWGEN: u16 = 15;
const NFPROTO_INET: u8 = 1;

/// A watch on our table.
pub struct Guard {
    channel: Channel,
    ours: u32,
    marks: Marks,
    waker: Waker,
}

/// What ended a wait of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Someone else changed something in our table, or so much changed that notices were lost: look closer.
    Touched,
    /// Something in another table changed that has to do with bits of marks: look there
    /// ([`collisions`](crate::collisions())).
    Others {
        /// There is a new rule that uses bits of ours; otherwise some rule is gone, which may have.
        collides: bool,
    },
    /// The waker was used.
    Woken,
}

impl Guard {
    /// Watches from now on; changes by the socket with port id `ours` don't count. Bits of ours are `marks`.
    pub(crate) fn new(ours: u32, marks: Marks, waker: Waker) -> Result<Self, Error> {
        let mut channel = Channel::open(NETLINK_NETFILTER)?;
        // The notices of a large change of our own pass through here too.
        channel.receive_room(16 << 20);
        channel.join(NFNLGRP_NFTABLES)?;
        Ok(Self { channel, ours, marks, waker })
    }

    /// Ends the wait from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until someone else changes our table, or a rule of another one that matters. What happened before the waker was used is told before that.
    pub fn changed(&mut self) -> Result<Changed, Error> {
        let failed = |error| Error::io("watch our nftables table", error);
        loop {
            if let Some(changed) = self.drain().map_err(failed)? {
                return Ok(changed);
            }
            if self.waker.take() {
                return Ok(Changed::Woken);
            }
            self.channel.wait(&self.waker).map_err(failed)?;
        }
    }

    /// Reads all notices that wait, and tells the most important: one about our table that is not by us, before others.
    fn drain(&mut self) -> io::Result<Option<Changed>> {
        let (ours, marks) = (self.ours, self.marks);
        let (mut touched, mut collides, mut gone) = (false, false, false);
        loop {
            let read = self.channel.read(&mut |message| {
                if message.kind >> 8 != NFNL_SUBSYS_NFTABLES || message.port == ours {
                    return;
                }
                let kind = message.kind & 0xff;
                if kind == NFT_MSG_NEWGEN {
                    return;
                }
                let is_inet = message.payload.first() == Some(&NFPROTO_INET);
                if is_inet && attribute(body(&message), NFTA_TABLE).map(text) == Some(TABLE) {
                    touched = true;
                } else {
                    collides |= kind == NFT_MSG_NEWRULE && concerns(message.payload, &marks);
                    gone |= matches!(kind, NFT_MSG_DELTABLE | NFT_MSG_DELCHAIN | NFT_MSG_DELRULE);
                }
            });
            match read {
                Ok(true) => {}
                Ok(false) if touched => return Ok(Some(Changed::Touched)),
                Ok(false) => return Ok((collides || gone).then_some(Changed::Others { collides })),
                // Notices were lost: perhaps such a one.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => touched = true,
                Err(error) => return Err(error),
            }
        }
    }
}
