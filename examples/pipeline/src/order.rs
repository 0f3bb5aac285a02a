//! What an order is, who placed it, and the names that follow from that alone.
//!
//! The id of an operation comes from who asks and the key they sent, and the slot from the same two. Nothing
//! fresh enters, so a request that is sent again, to another server or after a restart, is the same
//! operation in the same place and gets the same bytes back.

use std::fmt;

use seawall_shard_router::{Slot, slot_of};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The largest quantity one order may name, in units.
pub const MAX_QUANTITY: u32 = 10_000;

/// The longest item name, in bytes.
pub const MAX_ITEM: usize = 128;

/// Who placed an order. It is the scope of idempotency keys, and the account the order counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The user a gateway vouches for.
    User(String),
    /// The holder of an API key.
    ApiKey(String),
    /// Nobody said.
    Anonymous,
}

impl Principal {
    /// The account's name: a prefix for the kind, so that a user cannot be taken for a key.
    pub fn account(&self) -> String {
        match self {
            Self::User(id) => format!("user:{id}"),
            Self::ApiKey(key) => {
                format!("key:{}", &hex(&digest(&[b"api key", key.as_bytes()]))[..16])
            }
            Self::Anonymous => "anonymous".to_owned(),
        }
    }

    /// The slot in which an order of this principal lives. Orders of one account keep their order, so
    /// they share a slot; strangers share nothing and are spread by operation.
    pub fn slot(&self, op: OpId) -> Slot {
        match self {
            Self::Anonymous => slot_of(&op.0),
            _ => slot_of(self.account().as_bytes()),
        }
    }
}

/// The name of one operation: 128 bits of SHA-256 over scope and key, each framed by its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub [u8; 16]);

impl OpId {
    /// The operation that `principal` names by `key`.
    pub fn derive(principal: &Principal, key: &str) -> Self {
        let (kind, scope): (&[u8], &str) = match principal {
            Principal::User(id) => (b"user", id),
            Principal::ApiKey(key) => (b"key", key),
            Principal::Anonymous => (b"anonymous", ""),
        };
        Self(digest(&[
            b"seawall pipeline operation 1",
            kind,
            scope.as_bytes(),
            key.as_bytes(),
        ]))
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpId({self})")
    }
}

/// The public id of an order: where it lives and which operation it is, as 36 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrderId {
    /// The slot that holds it.
    pub slot: Slot,
    /// The operation that made it.
    pub op: OpId,
}

impl OrderId {
    /// Reads the form that [`Display`](fmt::Display) writes; anything else is not an order's id.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = unhex(text)?;
        let (slot, op) = bytes.split_first_chunk::<2>()?;
        Some(Self {
            slot: Slot::new(u16::from_be_bytes(*slot))?,
            op: OpId(op.try_into().ok()?),
        })
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}{}", self.slot.get(), self.op)
    }
}

/// What a client orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The client's own id for the request, when it is in the body.
    pub request_id: Option<String>,
    /// The product.
    pub item: String,
    /// Units, from 1 to [`MAX_QUANTITY`].
    pub quantity: u32,
}

impl Order {
    /// Tells one payload from another under the same key.
    pub fn fingerprint(&self) -> [u8; 16] {
        let (tag, id): (&[u8], &str) = match &self.request_id {
            Some(id) => (b"with id", id),
            None => (b"without", ""),
        };
        digest(&[
            b"seawall pipeline order 1",
            tag,
            id.as_bytes(),
            self.item.as_bytes(),
            &self.quantity.to_be_bytes(),
        ])
    }
}

/// An accepted order as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The operation, as hex.
    #[serde(with = "hex_bytes")]
    pub op: [u8; 16],
    /// The slot that the operation was routed by.
    pub slot: u16,
    /// The account that it counts for.
    pub account: String,
    /// The product.
    pub item: String,
    /// Units.
    pub quantity: u32,
    /// The payload's fingerprint, as hex.
    #[serde(with = "hex_bytes")]
    pub fingerprint: [u8; 16],
    /// When the API took it, in milliseconds of Unix time. For people; nothing is decided by it.
    pub at_ms: u64,
}

impl Record {
    /// The record's bytes in the log.
    pub fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self)
            .expect("a record of plain fields serialises")
            .into()
    }

    /// The operation.
    pub fn op(&self) -> OpId {
        OpId(self.op)
    }

    /// The public id.
    pub fn order_id(&self) -> Option<OrderId> {
        Some(OrderId {
            slot: Slot::new(self.slot)?,
            op: self.op(),
        })
    }
}

pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let full = hash.finalize();
    *full.first_chunk().expect("SHA-256 is 32 bytes long")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// Reads lower-case hex; anything else, an odd length or upper case included, is `None`.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 16], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        super::unhex(&text)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| D::Error::custom("not 32 hex digits"))
    }
}
