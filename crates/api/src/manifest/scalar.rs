//! What a plain YAML scalar means: as kubectl's reader has it (go-yaml v2, YAML 1.1), not as YAML 1.2 says.

use super::tree::ScalarKind;

/// What an unquoted, untagged scalar is. Dates stay strings, as they do on their way to the API server.
pub(super) fn resolve(text: &str) -> ScalarKind {
    match text.as_bytes().first() {
        None | Some(b'~' | b'n' | b'N' | b'y' | b'Y' | b't' | b'T' | b'f' | b'F' | b'o' | b'O') => word(text),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => number(text),
        _ => ScalarKind::String,
    }
}

fn word(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => ScalarKind::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => ScalarKind::Bool(false),
        _ => ScalarKind::String,
    }
}

fn number(text: &str) -> ScalarKind {
    match text {
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return ScalarKind::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return ScalarKind::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let plain = text.replace('_', "");
    if let Some(int) = integer(&plain) {
        return ScalarKind::Int(int);
    }
    if !looks_like_float(&plain) {
        return ScalarKind::String;
    }
    match plain.parse::<f64>() {
        // The way to the API server goes through JSON, where 80.0 is written 80.
        Ok(float) if float.fract() == 0.0 && float.abs() < 9e15 => ScalarKind::Int(float as i64),
        Ok(float) => ScalarKind::Float(float),
        Err(_) => ScalarKind::String,
    }
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -value } else { value }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn looks_like_float(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (text, None),
    };
    let mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_kubectl_reads() {
        use ScalarKind::{Bool, Float, Int, Null, String};
        for (text, kind) in [
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("nULL", String),
            ("true", Bool(true)),
            ("yes", Bool(true)),
            ("on", Bool(true)),
            ("y", Bool(true)),
            ("No", Bool(false)),
            ("off", Bool(false)),
            ("tRue", String),
            ("80", Int(80)),
            ("+80", Int(80)),
            ("-1", Int(-1)),
            ("0x50", Int(80)),
            ("0o17", Int(15)),
            ("017", Int(15)),
            ("0b11", Int(3)),
            ("08", Int(8)),
            ("1_000", Int(1000)),
            ("80.0", Int(80)),
            ("8e1", Int(80)),
            ("1.5", Float(1.5)),
            (".5", Float(0.5)),
            ("1.2.3", String),
            ("10.0.0.0/8", String),
            ("2025-01-01T00:00:00Z", String),
            ("2025-01-01", String),
            ("-", String),
            ("+", String),
            (".", String),
            ("1e", String),
            ("0x", String),
            ("fe80::1", String),
            ("9223372036854775807", Int(i64::MAX)),
            ("-9223372036854775808", Int(i64::MIN)),
            ("web", String),
        ] {
            assert_eq!(resolve(text), kind, "{text:?}");
        }
        assert!(matches!(resolve("18446744073709551616"), Float(_)));
    }
}
