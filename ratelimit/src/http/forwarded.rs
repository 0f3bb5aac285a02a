//! What proxies wrote into `X-Forwarded-For` and `Forwarded`, from the right.
//!
//! Each proxy appends, so that what stands on the right is the most to be trusted, and what a client sent along
//! stands on the left. Therefore everything here is read from the right, and nothing on the left can change how
//! that is understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// No address with brackets and a port is longer.
const LONGEST_ADDRESS: usize = 64;

/// Who called each of the proxies, the nearest proxy first; `None` for an entry that is no address.
pub(super) fn callers(headers: &HeaderMap, field: Field) -> impl Iterator<Item = Option<IpAddr>> {
    let (name, is_standard) = match field {
        Field::XForwardedFor => (&X_FORWARDED_FOR, false),
        Field::Forwarded => (&FORWARDED, true),
    };
    let lines = headers.get_all(name).iter().rev();
    let entries = lines.flat_map(move |line| Entries {
        rest: Some(line.as_bytes()),
        quotes: is_standard,
    });
    entries.map(move |entry| match is_standard {
        true => node(entry),
        false => address(entry),
    })
}

/// The field that proxies write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// What lies between commas, from the right.
struct Entries<'a> {
    rest: Option<&'a [u8]>,
    /// Whether a comma in quotes is none.
    quotes: bool,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let mut quoted = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            if byte == b'"' && self.quotes && !is_escaped(&rest[..at]) {
                quoted = !quoted;
            } else if byte == b',' && !quoted {
                self.rest = Some(&rest[..at]);
                return Some(&rest[at + 1..]);
            }
        }
        self.rest = None;
        Some(rest)
    }
}

/// Whether what follows is escaped by the last backslash.
fn is_escaped(before: &[u8]) -> bool {
    let backslashes = before.iter().rev().take_while(|&&byte| byte == b'\\');
    backslashes.count() % 2 == 1
}

/// The address in the one `for` of an element such as `for="[2001:db8::1]:80";proto=https`.
fn node(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    loop {
        let (pair, more) = pair(rest);
        let at = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            let inside = value.strip_prefix(b"\"");
            let value = inside.map_or(Some(value), |value| value.strip_suffix(b"\""));
            found = Some(address(value?)?);
        }
        match more {
            Some(more) => rest = more,
            None => return found,
        }
    }
}

/// What lies before the first semicolon outside of quotes, and what after it.
fn pair(rest: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut quoted = false;
    for (at, &byte) in rest.iter().enumerate() {
        if byte == b'"' && !(quoted && is_escaped(&rest[..at])) {
            quoted = !quoted;
        } else if byte == b';' && !quoted {
            return (&rest[..at], Some(&rest[at + 1..]));
        }
    }
    (rest, None)
}

/// An address, maybe in brackets, maybe with a port, which may be obfuscated.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    if entry.len() > LONGEST_ADDRESS {
        return None;
    }
    let text = std::str::from_utf8(entry).ok()?;
    if let Some(text) = text.strip_prefix('[') {
        let (address, port) = text.split_once(']')?;
        let fits = port.is_empty() || is_port(port.strip_prefix(':')?);
        return fits
            .then(|| address.parse::<Ipv6Addr>().ok())?
            .map(IpAddr::V6);
    }
    match text.split_once(':') {
        // More than one colon is no port.
        Some((address, port)) if !port.contains(':') => {
            let address: Ipv4Addr = address.parse().ok()?;
            is_port(port).then_some(address.into())
        }
        _ => text.parse().ok(),
    }
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(plain)
        }
        None => text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}
