//! The names of keys on Redis that must lie in one slot of a cluster.

use crate::{ConfigError, Origin};

/// Slots of a Redis Cluster.
const SLOTS: u16 = 16_384;

/// The part of a key by which a cluster places it: what stands in the first pair of braces, if anything.
fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// The slot in which a cluster keeps this key: the CRC16 (XMODEM) of its tag, or of all of it.
pub(crate) fn slot(key: &str) -> u16 {
    let hashed = tag(key).unwrap_or(key);
    let mut crc: u16 = 0;
    for byte in hashed.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
        }
    }
    crc % SLOTS
}

/// A name made of this one that lies in its slot, whatever it ends with.
pub(crate) fn beside(name: &str, ending: &str) -> Result<String, ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new("the name of a stream is empty"));
    }
    if tag(name).is_some() {
        return Ok(format!("{name}{ending}"));
    }
    if name.contains('}') {
        return Err(ConfigError::new(
            "a `}` in the name of a stream needs a part in braces before it, by which a cluster places it",
        ));
    }
    Ok(format!("{{{name}}}{ending}"))
}

/// Where the started suspects of a group are marked.
pub(crate) fn starts(stream: &str, group: &str) -> Result<String, ConfigError> {
    beside(stream, &format!(":{group}:starts"))
}

/// Where it is noted which keys of a group are held back, and by which message.
pub(crate) fn held(stream: &str, group: &str) -> Result<String, ConfigError> {
    beside(stream, &format!(":{group}:held"))
}

/// How it is noted there: as in the header of a copy.
pub(crate) fn origin(origin: &Origin) -> Vec<u8> {
    serde_json::to_vec(origin).expect("an origin is plain text and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("{foo}.bar"), 12_182);
        assert_eq!(slot("x{foo}{bar}"), 12_182);
        assert_eq!(slot("foo{}{bar}"), 8_363);
        assert_eq!(slot("foo{{bar}}zap"), 4_015);
    }

    #[test]
    fn what_lies_beside_a_name_lies_in_its_slot() {
        for name in ["orders", "{orders}", "a{orders}b", "a{b", "a:{1}:{2}", "ä"] {
            let beside = beside(name, ".dead{x}").unwrap();
            assert_eq!(slot(&beside), slot(name), "{name}: {beside}");
        }
        for name in ["", "a}b", "{}x", "}{a"] {
            assert!(beside(name, ".dead").is_err(), "{name}");
        }
    }
}
