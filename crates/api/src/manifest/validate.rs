//! The API server's rules for names, labels, ports, addresses and selectors, each as a function from a value to what
//! is wrong with it.
//!
//! Sources: `k8s.io/apimachinery/pkg/util/validation`, `…/pkg/apis/meta/v1/validation`,
//! `k8s.io/kubernetes/pkg/apis/networking/validation`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::path::Path;
use crate::{LabelSelector, Operator, Protocol, Requirement};

/// What is wrong with a value.
pub(super) type Wrong = String;

fn ends_are(text: &str, ok: impl Fn(u8) -> bool) -> bool {
    matches!(text.as_bytes(), [first, .., last] if ok(*first) && ok(*last))
        || matches!(text.as_bytes(), [one] if ok(*one))
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn dns_word(text: &str) -> bool {
    ends_are(text, lower_or_digit) && text.bytes().all(|b| lower_or_digit(b) || b == b'-')
}

/// A DNS-1123 subdomain: names of pods, nodes and policies, and prefixes of label keys.
pub(super) fn dns_subdomain(text: &str) -> Result<(), Wrong> {
    if text.len() <= 253 && text.split('.').all(dns_word) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is no valid name: lower case letters, digits, '-' and '.', beginning and ending with a letter or \
         digit, at most 253 characters"
    ))
}

/// A DNS-1123 label: names of namespaces.
pub(super) fn dns_label(text: &str) -> Result<(), Wrong> {
    if text.len() <= 63 && dns_word(text) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is no valid namespace: lower case letters, digits and '-', beginning and ending with a letter or \
         digit, at most 63 characters"
    ))
}

fn label_word(text: &str) -> bool {
    text.len() <= 63
        && ends_are(text, |b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label's key: a name, with an optional prefix that is a DNS subdomain.
pub(super) fn label_key(text: &str) -> Result<(), Wrong> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if label_word(name) && prefix.is_none_or(|prefix| dns_subdomain(prefix).is_ok()) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is no valid label key: letters, digits, '-', '_' and '.', beginning and ending with a letter or \
         digit, at most 63 characters, with an optional DNS name and '/' before it"
    ))
}

/// A label's value.
pub(super) fn label_value(text: &str) -> Result<(), Wrong> {
    if text.is_empty() || label_word(text) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is no valid label value: letters, digits, '-', '_' and '.', beginning and ending with a letter or \
         digit, at most 63 characters"
    ))
}

/// A port's name (RFC 6335 service name).
pub(super) fn port_name(text: &str) -> Result<(), Wrong> {
    let valid = (1..=15).contains(&text.len())
        && ends_are(text, lower_or_digit)
        && text.bytes().all(|b| lower_or_digit(b) || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--");
    if valid {
        return Ok(());
    }
    let number = if text.parse::<u16>().is_ok() { " (a port's number is written without quotes)" } else { "" };
    Err(format!(
        "{text:?} is no valid port name: at most 15 lower case letters, digits and '-', at least one letter, '-' \
         neither first nor last nor twice in a row{number}"
    ))
}

/// A port's number.
pub(super) fn port_number(number: i32) -> Result<u16, Wrong> {
    match u16::try_from(number) {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{number} is no valid port: 1 to 65535")),
    }
}

/// A protocol by its name, exactly as the API has it.
pub(super) fn protocol(text: &str) -> Result<Protocol, Wrong> {
    match text {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        _ => Err(format!("{text:?} is no protocol of the API: TCP, UDP or SCTP, in capitals")),
    }
}

/// A domain name of at least two words, `*.` before it standing for every name below it.
pub(super) fn domain_name(text: &str) -> Result<(), Wrong> {
    let word = |word: &str| {
        ends_are(word, |b| b.is_ascii_alphanumeric())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.contains('.') && name.split('.').all(word) {
        return Ok(());
    }
    Err(format!("{text:?} is no valid domain name, such as example.com, or *.example.com for every name below it"))
}

/// An IP address; one of IPv4 written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(format!("{text:?} is no valid IP address, such as 10.0.0.1 or fd00::1")),
    }
}

/// An address block, its host bits masked away.
pub(super) fn cidr(text: &str) -> Result<IpNet, Wrong> {
    let Ok(block) = text.parse::<IpNet>() else {
        return Err(format!("{text:?} is no valid CIDR, such as 10.0.0.0/8 or fd00::/8"));
    };
    let mapped = match (block.addr().to_canonical(), block.prefix_len()) {
        (IpAddr::V4(address), length @ 96..=128) if matches!(block, IpNet::V6(_)) => {
            Ipv4Net::new(address, length - 96).ok()
        }
        _ => None,
    };
    Ok(mapped.map_or(block, IpNet::V4).trunc())
}

/// A part of `block` to leave out of it: it must lie strictly within.
pub(super) fn except(block: &IpNet, text: &str) -> Result<IpNet, Wrong> {
    let part = cidr(text)?;
    if block.contains(&part) && part != *block {
        return Ok(part);
    }
    Err(format!("{text} must be a strict part of the cidr {block}; name a smaller block within it"))
}

/// A label selector; complaints go to `wrong`. Absent counts as empty, which selects everything.
pub(super) fn selector(
    path: &Path<'_>,
    selector: Option<&meta::LabelSelector>,
    wrong: &mut impl FnMut(&Path<'_>, Wrong),
) -> LabelSelector {
    let Some(selector) = selector else { return LabelSelector::default() };
    let mut requirements = Vec::new();
    let labels = path.key("matchLabels");
    for (key, value) in selector.match_labels.iter().flatten() {
        for each in [label_key(key), label_value(value)] {
            each.unwrap_or_else(|message| wrong(&labels.key(key), message));
        }
        requirements.push(Requirement { key: key.clone(), operator: Operator::In, values: vec![value.clone()] });
    }
    let expressions = path.key("matchExpressions");
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = expressions.index(i);
        let values = expression.values.clone().unwrap_or_default();
        label_key(&expression.key).unwrap_or_else(|message| wrong(&path.key("key"), message));
        for (i, value) in values.iter().enumerate() {
            label_value(value).unwrap_or_else(|message| wrong(&path.key("values").index(i), message));
        }
        let operator = match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In,
            ("NotIn", false) => Operator::NotIn,
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            (operator @ ("In" | "NotIn"), true) => {
                wrong(&path.key("values"), format!("operator {operator} needs values"));
                continue;
            }
            (operator @ ("Exists" | "DoesNotExist"), false) => {
                wrong(&path.key("values"), format!("operator {operator} takes no values; leave them out"));
                continue;
            }
            (operator, _) => {
                let message = format!("{operator:?} is no operator: In, NotIn, Exists or DoesNotExist");
                wrong(&path.key("operator"), message);
                continue;
            }
        };
        requirements.push(Requirement { key: expression.key.clone(), operator, values });
    }
    LabelSelector::new(requirements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug>(of: impl Fn(&str) -> Result<T, Wrong>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(of(text).is_ok(), "{text:?} is valid");
        }
        for text in bad {
            assert!(of(text).is_err(), "{text:?} is not valid");
        }
    }

    #[test]
    fn names_are_as_the_api_server_wants_them() {
        let long = "a".repeat(64);
        check(dns_subdomain, &["a", "web-1", "a.b", "0", &long], &["", "A", "-a", "a-", "a..b", "a.-b", "a_b", "ä"]);
        check(dns_subdomain, &[&"a".repeat(253)], &[&"a".repeat(254)]);
        check(dns_label, &["a", "kube-system", "1"], &["", "a.b", "A", "-a", &long]);
    }

    #[test]
    fn labels_are_as_the_api_server_wants_them() {
        let long = "a".repeat(64);
        check(
            label_key,
            &["app", "A_b.c-d", "x.io/app", "a.b/c"],
            &["", "/a", "a/", "a/b/c", "-a", "a b", "X.io/app", "ä", &long],
        );
        check(label_value, &["", "a", "A_b.c-d", &long[1..]], &["-a", "a-", "a b", "a/b", "ä", &long]);
    }

    #[test]
    fn port_names_are_service_names() {
        check(
            port_name,
            &["http", "a", "http-2", "2a", "a-very-long-na9"],
            &["", "80", "HTTP", "-a", "a-", "a--b", "a_b", "a-very-long-name"],
        );
        assert!(port_name("80").unwrap_err().contains("without quotes"));
    }

    #[test]
    fn port_numbers_are_1_to_65535() {
        assert_eq!(port_number(1), Ok(1));
        assert_eq!(port_number(65535), Ok(65535));
        for wrong in [0, -1, 65536, i32::MAX] {
            assert!(port_number(wrong).is_err());
        }
    }

    #[test]
    fn blocks_are_masked() {
        assert_eq!(cidr("10.0.0.5/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(cidr("fd00::5/8").unwrap().to_string(), "fd00::/8");
        assert_eq!(cidr("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(cidr("::ffff:10.0.0.5/104").unwrap().to_string(), "10.0.0.0/8");
        check(
            cidr,
            &["::/0", "10.0.0.1/32"],
            &["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/-8"],
        );
    }

    #[test]
    fn an_except_lies_strictly_within_its_block() {
        let block = cidr("10.1.0.0/16").unwrap();
        check(
            |text| except(&block, text),
            &["10.1.2.3/17", "10.1.2.3/32"],
            &["10.1.0.0/16", "10.1.0.9/16", "10.0.0.0/8", "10.2.0.0/24", "fd00::/64", "10.1.0.0"],
        );
    }

    #[test]
    fn addresses_of_ipv4_in_ipv6_are_ipv4() {
        assert_eq!(address("::ffff:10.0.0.1").unwrap().to_string(), "10.0.0.1");
        check(address, &["10.0.0.1", "fd00::1"], &["", "10.0.0", "10.0.0.1/32", "010.0.0.1", "web"]);
    }
}
