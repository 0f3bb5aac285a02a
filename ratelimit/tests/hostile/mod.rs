//! What must hold whatever bytes come from outside: driven by `tests/any_bytes.rs` and by the targets in `fuzz`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};
use seawall_ratelimit::{ClientIp, Key, KeyHash, Networks, Quota, Rule};

/// Who called our outer proxy.
const CLIENT: &str = "192.0.2.9";
/// Our proxies are in 10/8.
const OUTER: &str = "10.0.0.2";
const INNER: &str = "10.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("it is an address")
}

/// A request that our inner proxy handed on, with these lines of a field.
fn request(name: &HeaderName, lines: &[Vec<u8>]) -> Request<()> {
    let mut request = Request::new(());
    for line in lines {
        let value = HeaderValue::from_bytes(line).expect("what no field can hold was left out");
        request.headers_mut().append(name, value);
    }
    let peer = SocketAddr::new(ip(INNER), 4_711);
    request.extensions_mut().insert(peer);
    request
}

/// How a proxy adds what it saw to what it was sent: to the last line, or in a line of its own.
fn append(lines: &mut Vec<Vec<u8>>, own_line: bool, entry: &str) {
    match lines.last_mut() {
        Some(last) if !own_line => {
            last.extend_from_slice(b", ");
            last.extend_from_slice(entry.as_bytes());
        }
        _ => lines.push(entry.as_bytes().to_vec()),
    }
}

/// The bytes are two flags, and the lines that a client sent of a forwarding field. Whatever they say, the client is
/// who our outer proxy saw; and without what our proxies add, it is some address, which is never made up.
pub(crate) fn addresses(bytes: &[u8]) {
    let (flags, sent) = bytes.split_first().unwrap_or((&0, &[]));
    let sent: Vec<Vec<u8>> = sent
        .split(|&byte| byte == b'\n')
        .filter(|line| HeaderValue::from_bytes(line).is_ok())
        .map(<[u8]>::to_vec)
        .collect();
    let ours = Networks::new(["10.0.0.0/8"]);
    for (name, entries) in [
        ("x-forwarded-for", [CLIENT, OUTER]),
        (
            "forwarded",
            ["for=\"192.0.2.9:80\";host=\"a, b\"", "for=10.0.0.2"],
        ),
    ] {
        let field = HeaderName::from_static(name);
        let by = |by: ClientIp| match name {
            "forwarded" => by.forwarded(),
            _ => by,
        };
        let by_networks = by(ClientIp::behind(ours.clone()));

        let alone = request(&field, &sent);
        for proxies in 0..4 {
            let by_count = by(ClientIp::behind_proxies(proxies));
            assert!(by_count.address(&alone).is_some(), "the peer is there");
        }
        assert!(by_networks.address(&alone).is_some(), "the peer is there");

        let mut seen = sent.clone();
        append(&mut seen, flags & 1 != 0, entries[0]);
        append(&mut seen, flags & 2 != 0, entries[1]);
        let seen = request(&field, &seen);
        let by_count = by(ClientIp::behind_proxies(2));
        assert_eq!(by_count.address(&seen), Some(ip(CLIENT)), "{name}");
        assert_eq!(by_networks.address(&seen), Some(ip(CLIENT)), "{name}");
    }
}

/// The bytes are what a file says of a rule: taken, or refused with a reason, and never a panic.
pub(crate) fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Rule::try_new(text.clone().into_owned(), Quota::per_second(1)) {
        assert!(!error.to_string().is_empty());
    }
    match Networks::try_new([&text]) {
        Ok(networks) => {
            // What was taken has an address, and that lies in it.
            let address = text.split('/').next().map(str::parse::<IpAddr>);
            assert!(matches!(address, Some(Ok(address)) if networks.contains(address)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let word = |at: usize| {
        let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
        u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
    };
    let window = Duration::from_nanos(word(0));
    if let Ok(quota) = Quota::try_new(word(8) as u32, window) {
        assert!(quota.limit() > 0 && quota.window() == window);
    }
}

/// The bytes are two keys. They are the same key only if they are the same bytes of one kind.
pub(crate) fn keys(bytes: &[u8]) {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let pair = |one, other| Key::combined([Key::from(one), Key::from(other)]);
    assert_eq!(pair(one, other), pair(one, other));
    if one != other {
        assert_ne!(pair(one, other), pair(other, one));
        assert_ne!(Key::from(one), Key::from(other));
    }
    assert_ne!(Key::combined([Key::from(bytes)]), pair(one, other));
    if let Some(number) = bytes.first_chunk::<8>() {
        let number = u64::from_le_bytes(*number);
        assert_ne!(Key::from(number), Key::from(&bytes[..8]));
        assert_ne!(
            KeyHash::of(Key::from(number)),
            KeyHash::of(Key::from(&bytes[..8]))
        );
    }
}
