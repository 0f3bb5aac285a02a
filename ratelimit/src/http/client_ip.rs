use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, Request};

use crate::key::{Extract, Key};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// No address with a port and brackets is longer.
const LONGEST_ADDRESS: usize = 64;

/// Limits by the address of the client, as seen by those who can be trusted to say it.
///
/// [`direct`](ClientIp::direct) goes by the peer of the connection.
/// [`behind_proxies(n)`](ClientIp::behind_proxies) goes by what `n` proxies of yours wrote into
/// `X-Forwarded-For`: each appends the address that it was called from, so the client is the n-th from
/// the **right**. What stands further left came with the request, and is never looked at.
///
/// - All lines of the field count as one list. Ports and brackets are taken off, and an IPv4 address
///   written as IPv6 is the IPv4 address.
/// - With fewer than `n` entries it goes by the leftmost; without any, by the peer. A broken entry
///   gives the nearest address on its right, or the peer.
/// - IPv6 clients are limited by their network: the first 64 bits, unless
///   [`ipv6_prefix`](ClientIp::ipv6_prefix) says otherwise.
/// - Requests without any known address share one quota.
///
/// The peer is read from the request's extensions, where it may be a `SocketAddr` or an `IpAddr`, or
/// by a closure, as for axum:
///
/// ```
/// use axum::extract::{ConnectInfo, Request};
/// use seawall_ratelimit::ClientIp;
/// use std::net::SocketAddr;
///
/// let clients = ClientIp::direct().peer(|request: &Request| {
///     let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
///     Some(peer.0.ip())
/// });
///
/// # use seawall_ratelimit::{Extract, Key};
/// let mut request = Request::default();
/// request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 80))));
/// # let expected = Key::from("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
/// assert_eq!(clients.extract(&request), Some(expected));
/// ```
#[derive(Clone, Copy)]
#[must_use]
pub struct ClientIp<P = FromExtensions> {
    proxies: usize,
    ipv6_prefix: u8,
    peer: P,
}

impl ClientIp {
    /// Clients connect to this process themselves: headers say nothing.
    pub const fn direct() -> Self {
        Self::behind_proxies(0)
    }

    /// So many proxies of yours stand in front, each of which appends to `X-Forwarded-For`. One too many
    /// here lets clients choose their address; one too few limits the proxy.
    pub const fn behind_proxies(proxies: usize) -> Self {
        Self {
            proxies,
            ipv6_prefix: 64,
            peer: FromExtensions,
        }
    }
}

impl<P> ClientIp<P> {
    /// How to find the address of the peer.
    pub fn peer<Req, F>(self, peer: F) -> ClientIp<F>
    where
        F: Fn(&Req) -> Option<IpAddr>,
    {
        ClientIp {
            proxies: self.proxies,
            ipv6_prefix: self.ipv6_prefix,
            peer,
        }
    }

    /// How many leading bits of an IPv6 address are the client, 64 unless set; more than 128 are 128.
    pub const fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    fn network(&self, address: IpAddr) -> Key<'static> {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let host_bits = 128_u32.saturating_sub(u32::from(self.ipv6_prefix));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)).into()
            }
            address @ IpAddr::V4(_) => address.into(),
        }
    }
}

impl<B, P: Peer<Request<B>>> Extract<Request<B>> for ClientIp<P> {
    fn extract<'a>(&'a self, request: &'a Request<B>) -> Option<Key<'a>> {
        let address =
            forwarded_for(request.headers(), self.proxies).or_else(|| self.peer.peer(request));
        Some(address.map_or(Key::EVERYONE, |address| self.network(address)))
    }
}

/// The address on which the nearest `proxies` agree: the one furthest left among as many entries from
/// the right, up to the first that is none.
fn forwarded_for(headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    entries.take(proxies).map_while(address).last()
}

fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    if entry.len() > LONGEST_ADDRESS {
        return None;
    }
    let text = std::str::from_utf8(entry).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']');
    text.parse()
        .or_else(|_| text.parse().map(|address: SocketAddr| address.ip()))
        .ok()
        .or_else(|| in_brackets()?.parse().map(IpAddr::V6).ok())
}

/// Finds the address of the peer of a request's connection. Closures implement it.
pub trait Peer<Req> {
    /// The address, if it is known.
    fn peer(&self, request: &Req) -> Option<IpAddr>;
}

/// The peer from the request's extensions: a [`SocketAddr`] or an [`IpAddr`].
#[derive(Clone, Copy, Debug)]
pub struct FromExtensions;

impl<B> Peer<Request<B>> for FromExtensions {
    fn peer(&self, request: &Request<B>) -> Option<IpAddr> {
        let extensions = request.extensions();
        let socket = extensions.get::<SocketAddr>().map(SocketAddr::ip);
        socket.or_else(|| extensions.get::<IpAddr>().copied())
    }
}

impl<Req, F: Fn(&Req) -> Option<IpAddr>> Peer<Req> for F {
    fn peer(&self, request: &Req) -> Option<IpAddr> {
        self(request)
    }
}

impl<P> fmt::Debug for ClientIp<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp")
            .field("proxies", &self.proxies)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}
