use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, Request};

use super::forwarded::{Field, callers};
use super::networks::Networks;
use crate::key::{Extract, Key};

/// Entries of a field that are looked at; no chain of proxies is that long.
const LONGEST_CHAIN: usize = 64;

/// Limits by the address of the client, as seen by those who can be trusted to say it.
///
/// [`direct`](ClientIp::direct) goes by the peer of the connection. Where proxies of yours stand in front,
/// each of them appends the address that it was called from to `X-Forwarded-For` (or, by
/// [`forwarded`](ClientIp::forwarded), to the field of RFC 7239). That field is read from the **right**, and
/// only as far as your own proxies wrote it; what stands further left came with the request, and is
/// never looked at:
///
/// - [`behind(networks)`](ClientIp::behind) knows your proxies by their addresses. The client is the first
///   address, starting from the peer, that is not one of theirs.
/// - [`behind_proxies(n)`](ClientIp::behind_proxies) knows how many there are. The client is the n-th from the
///   right; with fewer entries it is the leftmost; without any, the peer.
///
/// What is no address ends the chain: a broken entry, an obfuscated one (`unknown`, `_hidden`), one that says
/// `for` twice. Then it goes by the nearest address on its right, or the peer: an address that one of yours
/// has seen, never the client's word.
///
/// - All lines of the field count as one list. Ports and brackets are taken off, and an IPv4 address
///   written as IPv6 is the IPv4 address.
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
/// assert_eq!(clients.address(&request), Some([192, 0, 2, 1].into()));
/// ```
#[derive(Clone)]
#[must_use]
pub struct ClientIp<P = FromExtensions> {
    trust: Trust,
    field: Field,
    ipv6_prefix: u8,
    peer: P,
}

/// Whose word is taken.
#[derive(Clone, Debug)]
enum Trust {
    /// So many proxies.
    Proxies(usize),
    /// Proxies with these addresses.
    Networks(Networks),
}

impl ClientIp {
    /// Clients connect to this process themselves: headers say nothing.
    pub const fn direct() -> Self {
        Self::behind_proxies(0)
    }

    /// So many proxies of yours stand in front, each of which appends to `X-Forwarded-For`. One too many
    /// here lets clients choose their address; one too few limits the proxy.
    pub const fn behind_proxies(proxies: usize) -> Self {
        Self::trusting(Trust::Proxies(proxies))
    }

    /// Your proxies have addresses in these networks, however many of them a request comes through. The peer
    /// must be one of them for any header to be looked at, so it has to be known.
    pub const fn behind(proxies: Networks) -> Self {
        Self::trusting(Trust::Networks(proxies))
    }

    const fn trusting(trust: Trust) -> Self {
        Self {
            trust,
            field: Field::XForwardedFor,
            ipv6_prefix: 64,
            peer: FromExtensions,
        }
    }
}

impl<P> ClientIp<P> {
    /// The proxies write `Forwarded` (RFC 7239), so `X-Forwarded-For` says nothing.
    ///
    /// It is one or the other: a proxy that writes one of them hands on the other as the client sent it.
    pub fn forwarded(mut self) -> Self {
        self.field = Field::Forwarded;
        self
    }

    /// How to find the address of the peer.
    pub fn peer<Req, F>(self, peer: F) -> ClientIp<F>
    where
        F: Fn(&Req) -> Option<IpAddr>,
    {
        ClientIp {
            trust: self.trust,
            field: self.field,
            ipv6_prefix: self.ipv6_prefix,
            peer,
        }
    }

    /// How many leading bits of an IPv6 address are the client, 64 unless set; more than 128 are 128.
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// The address of the client, whole, if any is known.
    pub fn address<B>(&self, request: &Request<B>) -> Option<IpAddr>
    where
        P: Peer<Request<B>>,
    {
        let peer = || self.peer.peer(request);
        let address = match &self.trust {
            Trust::Proxies(0) => peer(),
            Trust::Proxies(proxies) => {
                let seen = callers(request.headers(), self.field).take(*proxies);
                seen.map_while(|caller| caller).last().or_else(peer)
            }
            Trust::Networks(proxies) => {
                peer().map(|peer| self.first_stranger(peer, request.headers(), proxies))
            }
        };
        address.map(|address| address.to_canonical())
    }

    /// The first, from the peer on, that is no proxy; or the last proxy that is known.
    fn first_stranger(&self, peer: IpAddr, headers: &HeaderMap, proxies: &Networks) -> IpAddr {
        let mut nearest = peer;
        let mut callers = callers(headers, self.field).take(LONGEST_CHAIN);
        while proxies.contains(nearest) {
            match callers.next() {
                Some(Some(caller)) => nearest = caller,
                Some(None) | None => break,
            }
        }
        nearest
    }

    fn network(&self, address: IpAddr) -> Key<'static> {
        match address {
            IpAddr::V6(address) => {
                let host_bits = 128_u32.saturating_sub(u32::from(self.ipv6_prefix));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)).into()
            }
            IpAddr::V4(_) => address.into(),
        }
    }
}

impl<B, P: Peer<Request<B>>> Extract<Request<B>> for ClientIp<P> {
    fn extract<'a>(&'a self, request: &'a Request<B>) -> Option<Key<'a>> {
        let address = self.address(request);
        Some(address.map_or(Key::EVERYONE, |address| self.network(address)))
    }
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
            .field("trust", &self.trust)
            .field("field", &self.field)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}
