//! Bytes from outside. The same functions are the targets in `fuzz`, for who has hours to spend.

mod hostile;

use proptest::prelude::*;

/// Bytes of any kind, and such as look like what is read.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let like = prop::sample::select(vec![
        "for=",
        "For=\"",
        "10.0.0.1",
        "192.0.2.9",
        "10.0.0.0/8",
        "[",
        "]",
        "::1",
        "::ffff:10.0.0.1",
        "\"",
        "\\",
        ",",
        ";",
        "=",
        " ",
        "\t",
        "\n",
        ":80",
        ":",
        "unknown",
        "_x",
        "proto=http",
        "fd00::/8",
        "%",
        "/",
        "0",
        "\0",
    ]);
    let piece = prop_oneof![
        3 => like.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(piece, 0..32).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_client_cannot_say_who_it_is(flags: u8, sent in bytes()) {
        hostile::addresses(&[&[flags], sent.as_slice()].concat());
    }

    #[test]
    fn a_setting_is_taken_or_refused_with_a_reason(bytes in bytes()) {
        hostile::settings(&bytes);
    }

    #[test]
    fn keys_of_other_bytes_are_other_keys(bytes in bytes()) {
        hostile::keys(&bytes);
    }
}

/// A field of 64 KB is read once, whatever is in it: more than that per byte and this would not end.
#[test]
fn what_is_long_costs_what_it_is_long() {
    for piece in ["\"", "\\\"", "\\", ",", ";", "for=\"", "=", "[", ":", " "] {
        let sent = piece.repeat(65_536 / piece.len());
        hostile::addresses(&[b"\x00", sent.as_bytes()].concat());
        hostile::addresses(&[b"\x03", sent.as_bytes()].concat());
    }
}
