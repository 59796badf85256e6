//! What the kernel tells of a queued packet's connection: the attribute `NFQA_CT`, as conntrack's netlink messages have
//! it (linux/netfilter/nfnetlink_conntrack.h). Here only its original destination.

use std::net::{IpAddr, SocketAddr};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Where the connection's first packet was sent to: its address, and its port or 0. None if that cannot be read.
pub(super) fn sent_to(connection: &[u8]) -> Option<SocketAddr> {
    let tuple = attribute(connection, CTA_TUPLE_ORIG)?;
    let ip = attribute(tuple, CTA_TUPLE_IP)?;
    let address: IpAddr = match (attribute(ip, CTA_IP_V4_DST), attribute(ip, CTA_IP_V6_DST)) {
        (Some(v4), _) => <[u8; 4]>::try_from(v4).ok()?.into(),
        (None, Some(v6)) => <[u8; 16]>::try_from(v6).ok()?.into(),
        (None, None) => return None,
    };
    let port = attribute(tuple, CTA_TUPLE_PROTO).and_then(|protocol| attribute(protocol, CTA_PROTO_DST_PORT));
    let port = port.and_then(|port| port.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(SocketAddr::new(address, port))
}

/// The value of the first attribute of this kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((&[l0, l1, t0, t1], rest)) = bytes.split_first_chunk() {
        let value = usize::from(u16::from_ne_bytes([l0, l1])).checked_sub(4).and_then(|length| rest.get(..length))?;
        // Without the two top flag bits (nested, network order).
        if u16::from_ne_bytes([t0, t1]) & 0x3fff == wanted {
            return Some(value);
        }
        bytes = rest.get((value.len() + 3) & !3..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize((bytes.len() + 3) & !3, 0);
        bytes
    }

    const NESTED: u16 = 1 << 15;

    fn tuple(kind: u16, ip: Vec<u8>, port: u16) -> Vec<u8> {
        let protocol = [nla(1, &[6]), nla(2, &[0, 9]), nla(3, &port.to_be_bytes())].concat();
        nla(kind | NESTED, &[nla(1 | NESTED, &ip), nla(2 | NESTED, &protocol)].concat())
    }

    #[test]
    fn the_original_destination_is_read_in_either_family_and_not_the_replys() {
        let v4 = [nla(1, &[10, 1, 0, 5]), nla(2, &[10, 96, 0, 10])].concat();
        let reply = [nla(1, &[10, 1, 0, 9]), nla(2, &[10, 1, 0, 5])].concat();
        let told = [nla(3, &8u32.to_be_bytes()), tuple(2, reply, 40000), tuple(1, v4, 80)].concat();
        assert_eq!(sent_to(&told), Some("10.96.0.10:80".parse().unwrap()));
        let v6 = [nla(3, &[1; 16]), nla(4, &[2; 16])].concat();
        let expected = SocketAddr::new([2u8; 16].into(), 443);
        assert_eq!(sent_to(&tuple(1, v6, 443)), Some(expected));
    }

    #[test]
    fn what_is_cut_or_strange_says_nothing() {
        let whole = tuple(1, nla(2, &[10, 96, 0, 10]), 80);
        assert!(sent_to(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(sent_to(&whole[..length]), None, "{length}");
        }
        assert_eq!(sent_to(&tuple(1, nla(2, &[10, 96, 0]), 80)), None);
        assert_eq!(sent_to(&tuple(1, vec![], 80)), None);
        assert_eq!(sent_to(&nla(1, &[0, 0, 0, 0])), None);
    }
}
