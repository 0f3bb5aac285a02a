use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Where ports are drawn from. It lies below the range that Linux and macOS take the near end of an
/// outgoing connection from, so that no client can sit on the port of a server that is down for a
/// moment.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A port of the loopback address on which nothing listens now.
///
/// Another process may take it before the caller does, so whoever binds it should be ready to ask
/// again; drawing at random makes that rare.
///
/// # Panics
///
/// When no port in the range can be bound.
pub fn free_port() -> u16 {
    let width = u64::from(RANGE.end - RANGE.start);
    for attempt in 0..10_000_u32 {
        // Each RandomState is keyed differently, which is randomness enough and costs no dependency.
        let drawn = RandomState::new().hash_one((std::process::id(), attempt)) % width;
        let port = RANGE.start + u16::try_from(drawn).expect("a number below the range's width");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free port on 127.0.0.1 between {} and {}",
        RANGE.start, RANGE.end
    );
}
