//! A flow that somebody asks about (`podgate test`, `podgate explain`): its ends as they were written, its protocol and
//! port. Which addresses the ends stand for is told by [`crate::parties`].

use std::net::IpAddr;
use std::str::FromStr;

use podgate_engine::protocol;
use podgate_policy::reference::Flow;
use thiserror::Error;

use crate::parties::{EndError, Parties};

/// A new connection that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Who opens it: `namespace/pod` or an IP address, as written.
    pub(crate) from: String,
    /// To whom, likewise.
    pub(crate) to: String,
    /// The protocol.
    pub(crate) protocol: FlowProtocol,
    /// The destination port at the pod; `None` for ICMP.
    pub(crate) port: Option<u16>,
    /// The family to judge a pair of dual-stack pods in; `None`: the first that both have.
    pub(crate) family: Option<Family>,
}

/// The protocols that can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FlowProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
    /// ICMP between IPv4 addresses, ICMPv6 between IPv6 addresses.
    Icmp,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Why something is no flow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum QuestionError {
    #[error("unknown protocol {0:?}: TCP, UDP, SCTP or ICMP (which means ICMPv6 between IPv6 addresses)")]
    Protocol(String),
    #[error("family {0} is neither 4 nor 6")]
    Family(i64),
    #[error("port is missing: {0} needs the destination port, a number from 1 to 65535")]
    PortMissing(&'static str),
    #[error("port {0} is not in 1-65535")]
    PortRange(i64),
    #[error("ICMP has no ports: leave the port out")]
    PortOfIcmp,
}

impl Question {
    /// A question whose port fits its protocol.
    pub(crate) fn new(
        from: String,
        to: String,
        protocol: FlowProtocol,
        port: Option<i64>,
        family: Option<Family>,
    ) -> Result<Self, QuestionError> {
        let port = match (protocol, port) {
            (FlowProtocol::Icmp, None) => None,
            (FlowProtocol::Icmp, Some(_)) => return Err(QuestionError::PortOfIcmp),
            (_, None) => return Err(QuestionError::PortMissing(protocol.as_str())),
            (_, Some(port)) => match u16::try_from(port) {
                Ok(port) if port != 0 => Some(port),
                _ => return Err(QuestionError::PortRange(port)),
            },
        };
        Ok(Question { from, to, protocol, port, family })
    }

    /// The flow between the addresses that the ends stand for.
    pub(crate) fn resolve(&self, parties: &Parties<'_>) -> Result<Flow, EndError> {
        let (source, destination) = parties.pair(&self.from, &self.to, self.family)?;
        Ok(Flow { source, destination, protocol: self.protocol.number(Family::of(source)), port: self.port })
    }

    /// `TCP 5432`, `ICMP`.
    pub(crate) fn service(&self) -> String {
        match self.port {
            Some(port) => format!("{} {port}", self.protocol.as_str()),
            None => self.protocol.as_str().to_owned(),
        }
    }
}

impl FlowProtocol {
    /// The name, as in Kubernetes.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            FlowProtocol::Tcp => "TCP",
            FlowProtocol::Udp => "UDP",
            FlowProtocol::Sctp => "SCTP",
            FlowProtocol::Icmp => "ICMP",
        }
    }

    /// The IANA protocol number between addresses of this family.
    fn number(self, family: Family) -> u8 {
        match (self, family) {
            (FlowProtocol::Tcp, _) => protocol::TCP,
            (FlowProtocol::Udp, _) => protocol::UDP,
            (FlowProtocol::Sctp, _) => protocol::SCTP,
            (FlowProtocol::Icmp, Family::V4) => protocol::ICMP,
            (FlowProtocol::Icmp, Family::V6) => protocol::ICMPV6,
        }
    }
}

impl FromStr for FlowProtocol {
    type Err = QuestionError;

    /// In capitals, as Kubernetes has them, or in small letters.
    fn from_str(text: &str) -> Result<Self, QuestionError> {
        match text {
            "TCP" | "tcp" => Ok(FlowProtocol::Tcp),
            "UDP" | "udp" => Ok(FlowProtocol::Udp),
            "SCTP" | "sctp" => Ok(FlowProtocol::Sctp),
            "ICMP" | "icmp" => Ok(FlowProtocol::Icmp),
            other => Err(QuestionError::Protocol(other.to_owned())),
        }
    }
}

impl Family {
    /// The address' family.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `IPv4`, `IPv6`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

impl TryFrom<i64> for Family {
    type Error = QuestionError;

    fn try_from(number: i64) -> Result<Self, QuestionError> {
        match number {
            4 => Ok(Family::V4),
            6 => Ok(Family::V6),
            other => Err(QuestionError::Family(other)),
        }
    }
}
