//! Checks that several servicers share.

use crate::status::{Refused, invalid};

/// A column is empty or has an entry for every item.
pub(super) fn column(field: &str, len: usize, count: usize) -> Result<(), Refused> {
    if len == 0 || len == count {
        return Ok(());
    }
    Err(invalid(field, format!("{len} entries for {count} items")))
}

/// A column that must have an entry for every item.
pub(super) fn full_column(field: &str, len: usize, count: usize) -> Result<(), Refused> {
    if len == count {
        return Ok(());
    }
    Err(invalid(field, format!("{len} entries for {count} items")))
}

/// A contract's digest: 64 hexadecimal digits.
pub(super) fn digest(field: &str, digest: &str) -> Result<(), Refused> {
    let sound = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    if sound {
        return Ok(());
    }
    Err(invalid(field, "it is no SHA-256 in hexadecimal"))
}

/// "/package.Service/Method", or that with "@" and a number from 2.
pub(super) fn route(field: &str, route: &str) -> Result<(), Refused> {
    let number = |text: &str| {
        text.parse::<u32>()
            .is_ok_and(|n| n > 1 && n.to_string() == text)
    };
    match route.split_once('@') {
        Some((method, digits)) if number(digits) => method_path(field, method),
        _ => method_path(field, route),
    }
}

/// "/package.Service/Method".
pub(super) fn method_path(field: &str, path: &str) -> Result<(), Refused> {
    const BYTES_MAX: usize = 512;
    let mut parts = path.split('/');
    let shape = (parts.next(), parts.next(), parts.next(), parts.next());
    let legal = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    let sound = match shape {
        (Some(""), Some(service), Some(method), None) => legal(service) && legal(method),
        _ => false,
    };
    if sound && path.len() <= BYTES_MAX {
        return Ok(());
    }
    let shown: String = path.chars().take(100).collect();
    Err(invalid(
        field,
        format!("{shown:?} is not of the form /package.Service/Method"),
    ))
}

/// Text for people.
pub(super) fn reason(field: &str, text: &str) -> Result<(), Refused> {
    const BYTES_MAX: usize = 1024;
    match text.len() {
        len if len > BYTES_MAX => Err(crate::status::too_large(field, len, BYTES_MAX)),
        _ => Ok(()),
    }
}

/// A worker's id: 1 to 64 of [A-Za-z0-9._:-].
pub(super) fn worker_id(id: &str) -> Result<(), Refused> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(legal) {
        return Ok(());
    }
    Err(invalid(
        "hello.worker",
        "an id is 1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
    ))
}

/// Where a worker can be called: "host:port", or nothing.
pub(super) fn endpoint(field: &str, text: &str) -> Result<(), Refused> {
    const BYTES_MAX: usize = 255;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]%_".contains(&byte);
    let sound = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        !host.is_empty()
            && host.bytes().all(legal)
            && (bracketed || !host.contains([':', '[', ']']))
            && digits
            && port.parse::<u16>().is_ok_and(|number| number > 0)
    });
    if text.is_empty() || (sound && text.len() <= BYTES_MAX) {
        return Ok(());
    }
    Err(invalid(
        field,
        format!(
            "an endpoint is host:port, an IPv6 address in brackets, of at most {BYTES_MAX} bytes"
        ),
    ))
}

/// A queue's name: 1 to 128 of [a-z0-9._-] or, for a default, the case of the service's name.
pub(super) fn queue_name(name: &str) -> Result<(), Refused> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(invalid(
        "name",
        "a queue's name is 1 to 128 of letters, digits, '.', '_' and '-'",
    ))
}
