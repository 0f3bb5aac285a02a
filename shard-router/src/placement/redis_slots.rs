//! The slots of a Redis Cluster.

use crate::{Key, Slot};

/// Slots as a Redis Cluster numbers them, for shards that are its nodes.
///
/// # Specification, version 1
/// Of the key, the part that counts is what lies between the first `{` and the first `}` after it,
/// if that is one byte at least; else the whole key. The slot is its CRC16 modulo 16,384: the CRC
/// with polynomial 0x1021, starting from 0, neither input nor output reflected, nothing added at
/// the end.
///
/// ```
/// # use seawall_shard_router::placement::RedisSlots;
/// assert_eq!(RedisSlots::slot_of(b"123456789").get(), 12_739);
/// assert_eq!(RedisSlots::slot_of(b"{user7}.cart"), RedisSlots::slot_of(b"{user7}.name"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RedisSlots;

impl RedisSlots {
    /// The slot of a key.
    #[must_use]
    pub fn slot_of(key: &[u8]) -> Slot {
        Slot::from_index(usize::from(crc16(tag(key)) % crate::SLOTS))
    }

    /// What to route a request by that has this key.
    #[must_use]
    pub fn key(key: &[u8]) -> Key<'static> {
        Key::placed(Self::slot_of(key))
    }
}

fn tag(key: &[u8]) -> &[u8] {
    let inside = || {
        let open = key.iter().position(|&byte| byte == b'{')?;
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    };
    inside().unwrap_or(key)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};
