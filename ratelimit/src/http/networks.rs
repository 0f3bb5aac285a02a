use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::ConfigError;

/// Ranges of addresses, as of one's own proxies or of a list of exceptions.
///
/// An IPv4 address that is written as IPv6 is the IPv4 address, here and wherever it is looked for.
///
/// ```
/// use seawall_ratelimit::Networks;
///
/// let inside = Networks::new(["10.0.0.0/8", "fd00::/8", "192.0.2.1"]);
/// assert!(inside.contains("10.1.2.3".parse().unwrap()));
/// assert!(inside.contains("::ffff:10.1.2.3".parse().unwrap()));
/// assert!(!inside.contains("192.0.2.2".parse().unwrap()));
/// assert!(Networks::try_new(["10.0.0.1/8"]).is_err());
/// ```
#[derive(Clone)]
pub struct Networks {
    ranges: Arc<[Range]>,
}

#[derive(Clone, Copy)]
struct Range {
    v6: bool,
    first: u128,
    last: u128,
}

impl Networks {
    /// Of ranges as `address/bits`, or of single addresses.
    ///
    /// # Panics
    ///
    /// When one is no such range, or its address has bits set beyond those that it counts.
    #[must_use]
    pub fn new<T: AsRef<str>>(ranges: impl IntoIterator<Item = T>) -> Self {
        match Self::try_new(ranges) {
            Ok(networks) => networks,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`new`](Networks::new) for ranges that come from outside the code.
    ///
    /// # Errors
    ///
    /// Says what is wrong where `new` panics.
    pub fn try_new<T: AsRef<str>>(
        ranges: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConfigError> {
        let range = |text: T| {
            let text = text.as_ref();
            Range::parse(text).ok_or_else(|| ConfigError::Network(text.to_owned()))
        };
        let ranges: Result<_, _> = ranges.into_iter().map(range).collect();
        Ok(Self { ranges: ranges? })
    }

    /// Whether the address lies in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (v6, bits) = number(address);
        self.ranges
            .iter()
            .any(|range| range.v6 == v6 && range.first <= bits && bits <= range.last)
    }
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits)),
            None => (text.parse().ok()?, None),
        };
        let whole: u32 = if address.is_ipv6() { 128 } else { 32 };
        let bits = match bits {
            // A sign is no digit.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => whole,
        };
        let host_bits = whole.checked_sub(bits)?;
        let (v6, first) = number(address);
        if !v6 && host_bits > 32 {
            // A range of mapped addresses that is wider than all of IPv4.
            return None;
        }
        let span = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        (first & span == 0).then_some(Self {
            v6,
            first,
            last: first | span,
        })
    }
}

fn number(address: IpAddr) -> (bool, u128) {
    match address.to_canonical() {
        IpAddr::V4(address) => (false, address.to_bits().into()),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges.iter()).finish()
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |bits: u128| match u32::try_from(bits) {
            Ok(bits) if !self.v6 => IpAddr::V4(bits.into()),
            _ => IpAddr::V6(bits.into()),
        };
        write!(f, "{}-{}", address(self.first), address(self.last))
    }
}
