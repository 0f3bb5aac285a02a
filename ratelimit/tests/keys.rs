//! Who a client is: addresses behind proxies, and keys of several parts.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use seawall_ratelimit::{
    ClientIp, ConfigError, Extract, InExtension, Key, MemoryStore, Networks, Quota, RateLimitLayer,
    Rule, UriPath,
};

type Request = axum::http::Request<Body>;

const USER: HeaderName = HeaderName::from_static("x-user");
const PEER: &str = "10.0.0.1";

fn request(fields: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    for (name, value) in fields {
        let name = HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

fn from_peer_with(peer: &str, name: &str, lines: &[&str]) -> Request {
    let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
    let mut request = request(&lines);
    request
        .extensions_mut()
        .insert(SocketAddr::new(ip(peer), 4_711));
    request
}

fn client<'a>(extractor: &'a ClientIp, request: &'a Request) -> Key<'a> {
    extractor.extract(request).expect("there is always a key")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from_peer(peer: &str, forwarded: &[&str]) -> Request {
    from_peer_with(peer, "x-forwarded-for", forwarded)
}

#[test]
fn the_client_is_found_from_the_right() {
    let peer = PEER;
    let cases: &[(usize, &[&str], &str)] = &[
        (0, &["192.0.2.9"], peer),
        (1, &["192.0.2.9"], "192.0.2.9"),
        (1, &["spoofed, 192.0.2.9"], "192.0.2.9"),
        (1, &["198.51.100.1, 192.0.2.9"], "192.0.2.9"),
        (1, &["198.51.100.1", "192.0.2.9"], "192.0.2.9"),
        (2, &["198.51.100.1, 192.0.2.9, 10.0.0.2"], "192.0.2.9"),
        (2, &["198.51.100.1, 192.0.2.9", "10.0.0.2"], "192.0.2.9"),
        (1, &["192.0.2.9:52000"], "192.0.2.9"),
        (1, &["  192.0.2.9\t"], "192.0.2.9"),
        (1, &["::ffff:192.0.2.9"], "192.0.2.9"),
        (1, &["[::ffff:192.0.2.9]:80"], "192.0.2.9"),
        // Fewer entries than proxies: the leftmost was still written by one of ours.
        (3, &["192.0.2.9, 10.0.0.2"], "192.0.2.9"),
        // Missing or broken: the nearest address that can be trusted.
        (1, &[], peer),
        (1, &[""], peer),
        (1, &["unknown"], peer),
        (1, &["192.0.2.9,"], peer),
        (1, &["192.0.2.9.1"], peer),
        (2, &["unknown, 10.0.0.2"], "10.0.0.2"),
        (2, &[", 10.0.0.2"], "10.0.0.2"),
        (2, &["192.0.2.9, broken"], peer),
    ];
    for (proxies, forwarded, expected) in cases {
        let extractor = ClientIp::behind_proxies(*proxies);
        let request = from_peer(peer, forwarded);
        assert_eq!(
            client(&extractor, &request),
            Key::from(ip(expected)),
            "{proxies} {forwarded:?}"
        );
    }
}

#[test]
fn ipv6_clients_are_their_network() {
    let direct = ClientIp::direct();
    let key =
        |extractor: &ClientIp, peer| format!("{:?}", client(extractor, &from_peer(peer, &[])));
    assert_eq!(
        key(&direct, "2001:db8::1"),
        key(&direct, "2001:db8::ffff:1")
    );
    assert_ne!(key(&direct, "2001:db8::1"), key(&direct, "2001:db8:0:1::1"));
    let site = direct.clone().ipv6_prefix(48);
    assert_eq!(key(&site, "2001:db8::1"), key(&site, "2001:db8:0:1::1"));
    let host = direct.clone().ipv6_prefix(128);
    assert_ne!(key(&host, "2001:db8::1"), key(&host, "2001:db8::2"));
    let all = direct.clone().ipv6_prefix(0);
    assert_eq!(key(&all, "2001:db8::1"), key(&all, "fe80::1"));
    assert_eq!(key(&direct, "::ffff:192.0.2.9"), key(&direct, "192.0.2.9"));
}

#[test]
fn requests_without_any_address_share_one_quota() {
    assert_eq!(client(&ClientIp::direct(), &request(&[])), Key::EVERYONE);
}

#[test]
fn of_a_repeated_header_the_last_line_counts() {
    let mut twice = request(&[("x-user", "spoofed"), ("x-user", "ada")]);
    assert_eq!(USER.extract(&twice), Some(Key::from("ada")));
    twice.headers_mut().remove(USER);
    assert_eq!(USER.extract(&twice), None);
}

/// Own proxies are 10/8 and fd00::/8.
fn behind() -> ClientIp {
    ClientIp::behind(Networks::new(["10.0.0.0/8", "fd00::/8"]))
}

#[test]
fn the_client_is_the_first_that_is_no_proxy_of_ours() {
    let cases: &[(&str, &[&str], &str)] = &[
        // A peer that is none of ours is the client, whatever it says.
        ("203.0.113.5", &["192.0.2.9"], "203.0.113.5"),
        ("203.0.113.5", &["10.0.0.2"], "203.0.113.5"),
        (PEER, &["192.0.2.9"], "192.0.2.9"),
        (PEER, &["198.51.100.1, 192.0.2.9"], "192.0.2.9"),
        (PEER, &["198.51.100.1, 192.0.2.9, 10.0.0.2"], "192.0.2.9"),
        (
            PEER,
            &["198.51.100.1, 192.0.2.9", "10.0.0.2:80", "[fd00::2]:443"],
            "192.0.2.9",
        ),
        // A client that names one of ours has nothing of it: the proxy wrote who it really is.
        (PEER, &["10.0.0.9, 192.0.2.9"], "192.0.2.9"),
        ("::ffff:10.0.0.1", &["192.0.2.9"], "192.0.2.9"),
        (PEER, &["::ffff:10.0.0.2"], "10.0.0.2"),
        // All of them ours: a caller from within.
        (PEER, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        // Missing or broken: the nearest that can be trusted.
        (PEER, &[], PEER),
        (PEER, &[""], PEER),
        (PEER, &["192.0.2.9, unknown"], PEER),
        (PEER, &["192.0.2.9, _hidden, 10.0.0.2"], "10.0.0.2"),
        (PEER, &["192.0.2.9, , 10.0.0.2"], "10.0.0.2"),
        (PEER, &["192.0.2.9:99999, 10.0.0.2"], "10.0.0.2"),
    ];
    for (peer, lines, expected) in cases {
        let request = from_peer(peer, lines);
        let found = behind().address(&request);
        assert_eq!(found, Some(ip(expected)), "{peer} {lines:?}");
    }
    // Without a peer nobody can be trusted.
    let unknown = request(&[("x-forwarded-for", "192.0.2.9")]);
    assert_eq!(behind().address(&unknown), None);
}

#[test]
fn the_standard_field_is_read_from_the_right_too() {
    let cases: &[(&[&str], &str)] = &[
        (&["for=192.0.2.9"], "192.0.2.9"),
        (
            &["For=\"192.0.2.9:47011\";proto=http;by=10.0.0.1"],
            "192.0.2.9",
        ),
        (&["proto=http; for=192.0.2.9 ;by=10.0.0.1"], "192.0.2.9"),
        (&["for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
        (
            &["for=\"[2001:db8:cafe::17]\", for=10.0.0.2"],
            "2001:db8:cafe::17",
        ),
        (&["for=\"[::ffff:192.0.2.9]:_port\""], "192.0.2.9"),
        (&["for=\"192.0.2.9:_x\""], "192.0.2.9"),
        (
            &["for=198.51.100.1, for=192.0.2.9", "for=10.0.0.2"],
            "192.0.2.9",
        ),
        // Commas, semicolons and escapes in quotes are part of the value.
        (
            &["for=192.0.2.9;host=\"a, for=10.0.0.7; for=6.6.6.6\""],
            "192.0.2.9",
        ),
        (&["for=192.0.2.9;host=\"a\\\", for=6.6.6.6\""], "192.0.2.9"),
        (&["for=192.0.2.9;host=\"a\\\\\", for=10.0.0.2"], "192.0.2.9"),
        // What a client left open to the left reaches nowhere.
        (&["for=\"6.6.6.6, for=192.0.2.9"], "192.0.2.9"),
        (&["host=\"x", "for=192.0.2.9"], "192.0.2.9"),
        (&["for=\"6.6.6.6\\, for=192.0.2.9"], "192.0.2.9"),
        // Hidden, contradictory or broken: the nearest that can be trusted.
        (&["for=192.0.2.9, for=unknown"], PEER),
        (&["for=192.0.2.9, for=_gazonk, for=10.0.0.2"], "10.0.0.2"),
        (&["for=192.0.2.9;for=192.0.2.8"], PEER),
        (&["proto=http"], PEER),
        (&["for=\"192.0.2.9"], PEER),
        (&["for=192.0.2.9;"], PEER),
        (&["for="], PEER),
        (&["192.0.2.9"], PEER),
        (&[""], PEER),
        (&[], PEER),
    ];
    for (lines, expected) in cases {
        let request = from_peer_with(PEER, "forwarded", lines);
        let found = behind().forwarded().address(&request);
        assert_eq!(found, Some(ip(expected)), "{lines:?}");
    }
}

#[test]
fn the_field_that_proxies_do_not_write_says_nothing() {
    let both = request(&[
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.2"),
    ]);
    let one = ClientIp::behind_proxies(1);
    assert_eq!(one.address(&both), Some(ip("192.0.2.1")));
    assert_eq!(one.forwarded().address(&both), Some(ip("192.0.2.2")));
}

#[test]
fn networks_are_ranges_of_addresses() {
    let inside = |range: &str, address: &str| Networks::new([range]).contains(ip(address));
    assert!(inside("0.0.0.0/0", "255.255.255.255"));
    assert!(!inside("0.0.0.0/0", "2001:db8::1"));
    assert!(inside("::/0", "2001:db8::1"));
    assert!(!inside("::/0", "192.0.2.1"));
    assert!(inside("192.0.2.128/25", "192.0.2.128") && !inside("192.0.2.128/25", "192.0.2.127"));
    assert!(
        inside("2001:db8::/33", "2001:db8:7fff::") && !inside("2001:db8::/33", "2001:db8:8000::")
    );
    assert!(inside("::ffff:10.0.0.0/104", "10.9.9.9"));
    assert!(inside("192.0.2.1", "192.0.2.1") && !inside("192.0.2.1", "192.0.2.0"));
    for wrong in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.0.0.1/8",
        "::1/64",
        "fe80::1%eth0",
        "10.0.0.0/8/8",
        "host/8",
        "::ffff:0.0.0.0/90",
    ] {
        let refused = Networks::try_new([wrong]);
        assert_eq!(refused.err(), Some(ConfigError::Network(wrong.to_owned())));
    }
}

#[test]
fn parts_of_a_combination_are_framed() {
    let texts = ["", "a", "ab", "b", "aa"];
    let mut seen = std::collections::HashSet::new();
    for one in texts {
        assert!(seen.insert(Key::combined([Key::from(one)])));
        for two in texts {
            assert!(seen.insert(Key::combined([Key::from(one), Key::from(two)])));
        }
    }
    assert!(seen.insert(Key::combined([])));
    assert!(seen.insert(Key::combined([Key::from(7)])));
    assert!(seen.insert(Key::combined([Key::from(7_u64.to_le_bytes().as_slice())])));
    assert!(!seen.contains(&Key::from("a")));
}

#[tokio::test(start_paused = true)]
async fn a_rule_by_a_combination_limits_each_of_them() {
    #[derive(Clone)]
    struct Tenant(u64);

    let tenant = InExtension::new(|tenant: &Tenant| tenant.0.into());
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("mix", Quota::per_minute(1)).by((tenant, USER, UriPath)))
        .checker();
    let ask = |tenant: u64, user: &str, path: &str| {
        let mut request = axum::http::Request::builder()
            .uri(path)
            .header(USER, user)
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Tenant(tenant));
        request
    };
    for (tenant, user, path) in [
        (1, "ada", "/a"),
        (2, "ada", "/a"),
        (1, "bob", "/a"),
        (1, "ada", "/b"),
    ] {
        assert!(limits.check(&ask(tenant, user, path)).await.is_ok());
        // A query is no other path.
        let again = ask(tenant, user, &format!("{path}?page=2"));
        assert!(limits.check(&again).await.is_err());
    }
    // If one part is missing, the rule does not apply.
    for _ in 0..3 {
        assert!(limits.check(&request(&[("x-user", "ada")])).await.is_ok());
    }
}

/// What a client may send: anything at all, and things that look like what is looked for.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let like = prop::sample::select(vec![
        "for=",
        "For=\"",
        "10.0.0.1",
        "192.0.2.9",
        "[",
        "]",
        "::1",
        "\"",
        "\\",
        ",",
        ";",
        "=",
        " ",
        ":80",
        "unknown",
        "_x",
        "proto=http",
        "fd00::1",
        "%",
    ]);
    let piece = prop_oneof![
        like.prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(32_u8..=255, 0..12).prop_map(|mut bytes| {
            bytes.retain(|&byte| byte != 127);
            bytes
        }),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn with_bytes(name: &'static str, lines: &[Vec<u8>]) -> Request {
    let mut request = from_peer(PEER, &[]);
    for line in lines {
        let value = HeaderValue::from_bytes(line).unwrap();
        request.headers_mut().append(name, value);
    }
    request
}

/// How a proxy adds what it saw to what it was sent: to the last line, or in a line of its own.
fn appended(mut lines: Vec<Vec<u8>>, own_line: bool, entry: &str) -> Vec<Vec<u8>> {
    match lines.last_mut() {
        Some(last) if !own_line => {
            last.extend_from_slice(b", ");
            last.extend_from_slice(entry.as_bytes());
        }
        _ => lines.push(entry.as_bytes().to_vec()),
    }
    lines
}

/// At a limit of 1: how many of 200 requests pass that come through our proxy, each with another forged chain.
#[tokio::test(start_paused = true)]
async fn spoofed_chains() {
    let mut random = fastrand::Rng::with_seed(13);
    let mut most = 0;
    for (name, entry) in [
        ("x-forwarded-for", "192.0.2.9"),
        ("forwarded", "for=192.0.2.9;proto=http"),
    ] {
        for clients in [behind(), ClientIp::behind_proxies(1)] {
            let clients = match name {
                "forwarded" => clients.forwarded(),
                _ => clients,
            };
            let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
                .rule(Rule::new("client", Quota::per_minute(1)).by(clients))
                .checker();
            let mut admitted = 0;
            for n in 0..200 {
                let forged = [
                    format!("198.51.100.{n}"),
                    format!("for=198.51.100.{n}"),
                    format!("10.0.0.{n}, for=\"198.51.100.{n}, "),
                    format!("for=\"10.0.0.{n}\\"),
                ];
                let forged = random.choice(forged).unwrap();
                let lines = appended(vec![forged.into_bytes()], random.bool(), entry);
                let request = with_bytes(name, &lines);
                admitted += u32::from(limits.check(&request).await.is_ok());
            }
            assert_eq!(admitted, 1, "{name}");
            most = most.max(admitted);
        }
    }
    println!("figure ratelimit/spoofed-chains: {most}");
}

proptest! {
    #[test]
    fn whatever_a_client_sends_it_is_who_our_proxy_saw(
        sent in prop::collection::vec(junk(), 0..4),
        own_lines in prop::array::uniform2(any::<bool>()),
    ) {
        let seen = appended(sent.clone(), own_lines[0], "192.0.2.9");
        let seen = appended(seen, own_lines[1], "10.0.0.2");
        let request = with_bytes("x-forwarded-for", &seen);
        prop_assert_eq!(behind().address(&request), Some(ip("192.0.2.9")));
        prop_assert_eq!(ClientIp::behind_proxies(2).address(&request), Some(ip("192.0.2.9")));

        let seen = appended(sent, own_lines[0], "for=\"192.0.2.9:80\";host=\"a, b\"");
        let seen = appended(seen, own_lines[1], "for=10.0.0.2;proto=http");
        let request = with_bytes("forwarded", &seen);
        prop_assert_eq!(behind().forwarded().address(&request), Some(ip("192.0.2.9")));
        let two = ClientIp::behind_proxies(2).forwarded();
        prop_assert_eq!(two.address(&request), Some(ip("192.0.2.9")));
    }

    #[test]
    fn any_bytes_give_an_address_that_is_there(sent in prop::collection::vec(junk(), 0..6)) {
        for (name, standard) in [("x-forwarded-for", false), ("forwarded", true)] {
            let request = with_bytes(name, &sent);
            for extractor in [behind(), ClientIp::behind_proxies(1), ClientIp::behind_proxies(9)] {
                let extractor = if standard { extractor.forwarded() } else { extractor };
                prop_assert!(extractor.address(&request).is_some());
            }
        }
    }

    #[test]
    fn a_network_is_what_its_bits_say(address: u32, bits in 0_u32..=32, other: u32) {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let range = format!("{}/{bits}", IpAddr::V4((address & mask).into()));
        let networks = Networks::new([range]);
        prop_assert!(networks.contains(IpAddr::V4(address.into())));
        let same = address & mask == other & mask;
        prop_assert_eq!(networks.contains(IpAddr::V4(other.into())), same);
    }

    #[test]
    fn what_the_client_sends_never_matters(
        sent in prop::collection::vec("[ -~]{0,80}", 0..4),
        proxies in 1_usize..4,
    ) {
        // The proxies append, each its caller.
        let mut lines: Vec<&str> = sent.iter().map(String::as_str).collect();
        let appended = ["192.0.2.9", "10.0.0.3", "10.0.0.2"];
        lines.extend(&appended[..proxies]);
        let extractor = ClientIp::behind_proxies(proxies);
        let request = from_peer("10.0.0.1", &lines);
        prop_assert_eq!(client(&extractor, &request), Key::from(ip("192.0.2.9")));
    }

    #[test]
    fn any_bytes_in_the_header_are_taken(bytes in prop::collection::vec(32_u8..=255, 0..300)) {
        let mut request = from_peer("10.0.0.1", &[]);
        if let Ok(value) = axum::http::HeaderValue::from_bytes(&bytes) {
            request.headers_mut().append("x-forwarded-for", value);
        }
        for proxies in 0..4 {
            prop_assert!(ClientIp::behind_proxies(proxies).extract(&request).is_some());
        }
    }
}
