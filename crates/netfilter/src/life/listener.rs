//! Whose socket listens at a name, asked of the kernel: where there is no room for a connection, that cannot tell.

use libc::{AF_UNIX, NETLINK_SOCK_DIAG, SOCK_STREAM};
use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable};

use crate::Error;
use crate::netlink::{Channel, attribute};

// include/uapi/linux/sock_diag.h, unix_diag.h; the state is of include/net/tcp_states.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_UID: u32 = 0x40;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_UID: u16 = 7;
const LISTEN: u32 = 10;

/// Asks for all that listen: `struct unix_diag_req`.
struct Listening;

impl NetlinkSerializable for Listening {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        24
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let number = |n: u32| n.to_ne_bytes();
        let fields = [number(1 << LISTEN), number(0), number(UDIAG_SHOW_NAME | UDIAG_SHOW_UID), number(!0), number(!0)];
        // A family is one byte, and so is the protocol, which there is none of.
        buffer[..4].copy_from_slice(&[AF_UNIX as u8, 0, 0, 0]);
        buffer[4..24].copy_from_slice(fields.as_flattened());
    }
}

/// The user, as this one's namespace of users has it, whose stream socket listens at this abstract name in the network
/// namespace of the calling thread; None where nobody does, or the kernel does not tell users (before 5.3).
pub(super) fn user(name: &str) -> Result<Option<u32>, Error> {
    let mut channel = Channel::open(NETLINK_SOCK_DIAG as isize)?;
    let mut user = None;
    channel.request("see who listens on unix sockets", Listening, NLM_F_DUMP, &mut |message| {
        let Some(message) = message else { return };
        // `struct unix_diag_msg`: family, type, state, padding, inode, cookie; then attributes.
        let Some((&[_, kind, ..], attributes)) = message.payload.split_first_chunk::<16>() else { return };
        let found = attribute(attributes, UNIX_DIAG_NAME).and_then(|name| name.strip_prefix(&[0]));
        if i32::from(kind) == SOCK_STREAM && found == Some(name.as_bytes()) {
            user = attribute(attributes, UNIX_DIAG_UID).and_then(|uid| uid.try_into().ok()).map(u32::from_ne_bytes);
        }
    })?;
    Ok(user)
}
