use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// Who is limited: the value whose requests share one quota under a rule.
///
/// Made from text, bytes, a number or an address. The bytes are only read while a decision is made:
/// stores keep a hash of fixed size, whatever comes from outside. Values of different kinds are never
/// the same key, even if their bytes are.
///
/// ```
/// use seawall_ratelimit::Key;
///
/// let tenant = Key::from("acme");
/// assert_eq!(tenant.as_bytes(), b"acme");
/// assert_ne!(Key::from(7_u64), Key::from(7_u64.to_le_bytes().as_slice()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a>(Kind<'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind<'a> {
    Everyone,
    Bytes(&'a [u8]),
    Number([u8; 8]),
    V4([u8; 4]),
    V6([u8; 16]),
    Combined([u8; 16]),
}

impl Key<'_> {
    /// The one key of a rule that limits everyone together.
    pub const EVERYONE: Key<'static> = Key(Kind::Everyone);

    /// How many kinds there are.
    pub(crate) const KINDS: usize = 6;

    /// The value as bytes, for a store to hash together with [`kind`](Key::kind).
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Everyone => &[],
            Kind::Bytes(bytes) => bytes,
            Kind::Number(bytes) => bytes,
            Kind::V4(bytes) => bytes,
            Kind::V6(bytes) | Kind::Combined(bytes) => bytes,
        }
    }

    /// The number, if it is one.
    pub(crate) const fn number(&self) -> Option<u64> {
        match self.0 {
            Kind::Number(bytes) => Some(u64::from_le_bytes(bytes)),
            _ => None,
        }
    }

    /// Which kind of value the bytes are.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self.0 {
            Kind::Everyone => 0,
            Kind::Bytes(_) => 1,
            Kind::Number(_) => 2,
            Kind::V4(_) => 3,
            Kind::V6(_) => 4,
            Kind::Combined(_) => 5,
        }
    }

    /// One key of several: each combination of them is limited on its own. A tuple of extractors makes
    /// such.
    ///
    /// It is half of a SHA-256 of the parts, each with its kind and length, so that no two combinations
    /// can be made to meet.
    ///
    /// ```
    /// use seawall_ratelimit::Key;
    ///
    /// let pair = |a, b| Key::combined([Key::from(a), Key::from(b)]);
    /// assert_eq!(pair("ab", "c"), pair("ab", "c"));
    /// assert_ne!(pair("ab", "c"), pair("a", "bc"));
    /// ```
    #[must_use]
    pub fn combined<'a>(parts: impl IntoIterator<Item = Key<'a>>) -> Key<'static> {
        let mut hasher = Sha256::new();
        for part in parts {
            let bytes = part.as_bytes();
            hasher.update([part.kind()]);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize()[..16]);
        Key(Kind::Combined(half))
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(text: &'a str) -> Self {
        text.as_bytes().into()
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(text: &'a String) -> Self {
        text.as_bytes().into()
    }
}

impl From<u64> for Key<'_> {
    fn from(number: u64) -> Self {
        Self(Kind::Number(number.to_le_bytes()))
    }
}

/// The address as it is; `ClientIp` limits IPv6 by network.
impl From<IpAddr> for Key<'_> {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(Kind::V4(address.octets())),
            IpAddr::V6(address) => Self(Kind::V6(address.octets())),
        }
    }
}

/// Finds the key of a request, or says that the rule does not apply to it.
///
/// Ready-made ones go into [`Rule::by`](crate::Rule::by); a closure goes into
/// [`Rule::key`](crate::Rule::key) or [`Rule::key_if`](crate::Rule::key_if).
pub trait Extract<Req> {
    /// The key, or `None` if this request is not to be limited by the rule.
    fn extract<'a>(&'a self, request: &'a Req) -> Option<Key<'a>>;
}

/// One quota for all requests together: what a rule does until it is told whom to limit.
#[derive(Clone, Copy, Debug)]
pub struct Everyone;

impl<Req> Extract<Req> for Everyone {
    fn extract<'a>(&'a self, _: &'a Req) -> Option<Key<'a>> {
        Some(Key::EVERYONE)
    }
}

/// A combination: the rule applies to requests in which all parts are found.
macro_rules! combination {
    ($($part:ident),+) => {
        impl<Req, $($part: Extract<Req>),+> Extract<Req> for ($($part,)+) {
            fn extract<'a>(&'a self, request: &'a Req) -> Option<Key<'a>> {
                #[expect(non_snake_case, reason = "a part is named as its type")]
                let ($($part,)+) = self;
                Some(Key::combined([$($part.extract(request)?),+]))
            }
        }
    };
}

combination!(A, B);
combination!(A, B, C);
combination!(A, B, C, D);

/// A closure that always finds a key; made by [`Rule::key`](crate::Rule::key).
#[derive(Clone, Copy)]
pub struct ByKey<F>(pub(crate) F);

impl<Req, F> Extract<Req> for ByKey<F>
where
    F: for<'a> Fn(&'a Req) -> Key<'a>,
{
    fn extract<'a>(&'a self, request: &'a Req) -> Option<Key<'a>> {
        Some((self.0)(request))
    }
}

/// A closure that may find no key; made by [`Rule::key_if`](crate::Rule::key_if).
#[derive(Clone, Copy)]
pub struct ByKeyIf<F>(pub(crate) F);

impl<Req, F> Extract<Req> for ByKeyIf<F>
where
    F: for<'a> Fn(&'a Req) -> Option<Key<'a>>,
{
    fn extract<'a>(&'a self, request: &'a Req) -> Option<Key<'a>> {
        (self.0)(request)
    }
}

impl<F> std::fmt::Debug for ByKey<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ByKey").finish_non_exhaustive()
    }
}

impl<F> std::fmt::Debug for ByKeyIf<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ByKeyIf").finish_non_exhaustive()
    }
}
