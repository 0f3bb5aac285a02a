//! The hash of a key is a promise for ever: change one of these and every key moves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use seawall_shard_router::{Key, SLOTS, Slot, SlotRange, slot_of};
use xxhash_rust::xxh3::xxh3_64;

/// The buffer over which the authors of XXH3 publish their own vectors.
fn published_buffer(length: usize) -> Vec<u8> {
    let mut state = 2_654_435_761_u64;
    std::iter::repeat_with(|| {
        let byte = (state >> 56) as u8;
        state = state.wrapping_mul(11_400_714_785_074_694_797);
        byte
    })
    .take(length)
    .collect()
}

/// One length for each of the ways in which XXH3 treats short and long input. The reference
/// implementation in C (0.8.2 and later, by the Python package `xxhash` 4.1) gives the same for these and for the
/// slots below.
#[test]
fn the_hash_is_xxh3_as_published() {
    for (length, hash) in [
        (0, 0x2D06_8005_38D3_94C2),
        (1, 0xC44B_DFF4_074E_ECDB),
        (6, 0x27B5_6A84_CD2D_7325),
        (12, 0xA713_DAF0_DFBB_77E7),
        (24, 0xA3FE_70BF_9D35_10EB),
        (48, 0x397D_A259_ECBA_1F11),
        (80, 0xBCDE_FBBB_2C47_C90A),
        (195, 0xCD94_217E_E362_EC3A),
        (403, 0xCDEB_804D_65C6_DEA4),
    ] {
        let buffer = published_buffer(length);
        assert_eq!(xxh3_64(&buffer), hash, "{length} bytes");
        assert_eq!(
            u64::from(slot_of(&buffer).get()),
            hash >> 50,
            "{length} bytes"
        );
    }
}

#[test]
fn the_slots_of_keys_are_pinned() {
    for (key, slot) in [
        ("", 2_881),
        ("a", 14_769),
        ("tenant-7", 7_436),
        ("user:1", 3_797),
        ("żółw", 4_778),
    ] {
        assert_eq!(Key::from(key).slot().get(), slot, "{key:?}");
    }
    for (key, slot) in [(0, 12_766), (1, 15_578), (7, 15_920), (u64::MAX, 5_188)] {
        assert_eq!(Key::from(key).slot().get(), slot, "{key}");
    }
}

#[test]
fn every_form_of_a_key_is_its_bytes() {
    let text = String::from("tenant-7");
    let slot = slot_of(b"tenant-7");
    assert_eq!(Key::from(text.as_str()).slot(), slot);
    assert_eq!(Key::from(&text).slot(), slot);
    assert_eq!(Key::from(text.as_bytes()).slot(), slot);
    assert_eq!(Key::from(b"tenant-7").slot(), slot);
    assert_eq!(Key::from(&text.clone().into_bytes()).slot(), slot);
    assert_eq!(Key::from(slot).slot(), slot);
    assert_eq!(Key::placed(slot).slot(), slot);
    let number = 0x0102_0304_0506_0708;
    assert_eq!(Key::from(number).slot(), slot_of(&[1, 2, 3, 4, 5, 6, 7, 8]));
}

#[test]
fn empty_and_huge_keys_have_slots() {
    assert!(slot_of(b"").get() < SLOTS);
    assert!(slot_of(&vec![0xA5; 16 << 20]).get() < SLOTS);
}

#[test]
fn a_key_does_not_show_itself() {
    let shown = format!("{:?}", Key::from("card-4111"));
    assert!(!shown.contains("4111"), "{shown}");
}

#[test]
fn slots_and_ranges_are_checked() {
    assert_eq!(Slot::all().len(), usize::from(SLOTS));
    assert_eq!(Slot::new(SLOTS), None);
    for text in ["0", "16383", "17-42", "0-16383"] {
        assert_eq!(text.parse::<SlotRange>().unwrap().to_string(), text);
    }
    assert_eq!("17-42".parse::<SlotRange>().unwrap().len(), 26);
    for (text, why) in [
        ("", "is no range"),
        ("a", "is no range"),
        ("1-2-3", "is no range"),
        ("-5", "is no range"),
        ("70000", "is no range"),
        ("16384", "is no slot"),
        ("5-16384", "is no slot"),
        ("42-17", "ends before it begins"),
    ] {
        let error = text.parse::<SlotRange>().unwrap_err().to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}
