//! The kernel's list of connections, with labels as numbers: `conntrack` shows only labels that /etc has names for.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Namespace;

const CTA_LABELS: u16 = 22;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Connection {
    pub(crate) source: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) mark: u32,
    /// Numbers of its labels (of 64-bit words in the order of this machine); `None` without any, or without room.
    pub(crate) labels: Option<Vec<usize>>,
}

/// The connection whose first packet came from `port`.
pub(crate) fn connection(at: &Namespace, port: u16) -> Connection {
    let all = at.run(list);
    all.iter().find(|c| c.port == port).unwrap_or_else(|| panic!("no connection from port {port}: {all:?}")).clone()
}

fn list() -> Vec<Connection> {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let get = NetfilterMessage::new(header, ConntrackMessage::Get(vec![]));
    let mut request = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(get));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).unwrap();
    let mut connections = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).unwrap();
            rest = &rest[(message.header.length as usize).next_multiple_of(4).min(rest.len())..];
            match message.payload {
                NetlinkPayload::Done(_) => return connections,
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) => connections.push(read(&attributes)),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn read(attributes: &[ConntrackAttribute]) -> Connection {
    let mut connection = Connection::default();
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaMark(mark) => connection.mark = *mark,
            ConntrackAttribute::CtaTupleOrig(parts) => {
                for part in parts {
                    match part {
                        Tuple::Ip(ends) => {
                            connection.source = ends.iter().find_map(|end| match end {
                                IPTuple::SourceAddress(address) => Some(*address),
                                _ => None,
                            });
                        }
                        Tuple::Proto(parts) => {
                            let port = parts.iter().find_map(|part| match part {
                                ProtoTuple::SourcePort(port) => Some(*port),
                                _ => None,
                            });
                            connection.port = port.unwrap_or(0);
                        }
                        _ => {}
                    }
                }
            }
            ConntrackAttribute::Other(nla) if nla.kind() == CTA_LABELS => {
                let mut bytes = [0; 16];
                nla.emit_value(&mut bytes);
                let words = [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()));
                let set = (0..128).filter(|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
                connection.labels = Some(set.collect());
            }
            _ => {}
        }
    }
    connection
}
