//! Conntrack's entries, which have to go between measurements: the hash table is the machine's, so that those of one
//! side would cost all others time, and a full one would lose packets. They expire, but are taken away only by and by.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};
use podgate_sandbox::Netns;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h): without a
/// tuple, all entries.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK` (linux/netlink.h).
const FLAGS: u16 = 1 | 4;
/// Length of a netlink header, and of the netfilter header behind it.
const HEADER: usize = 16;
const NETFILTER: usize = 4;

/// Takes all entries of a namespace away.
pub(crate) fn forget(netns: &Netns) -> io::Result<()> {
    let mut request = [0; HEADER + NETFILTER];
    request[0..4].copy_from_slice(&((HEADER + NETFILTER) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let talk = || -> io::Result<[u8; 64]> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        connect(kernel.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        send(kernel.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = [0; 64];
        let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if length < HEADER + 4 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
    };
    let answer = netns.run(talk)?;
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
