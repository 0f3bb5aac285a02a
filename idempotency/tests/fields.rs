//! The `Idempotency-Key` field against the grammar of Strings in RFC 9651 (and 8941, of which it is the same), and
//! JSON against RFC 8785.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;
use seawall_idempotency::{IdempotencyKey, KeyError, canonical_json};

/// `Some` is the String that the grammar finds; `None`: the field has to be ignored, which is 400 here.
fn vectors() -> Vec<(Vec<u8>, Option<String>)> {
    let long = "x".repeat(255);
    let longer = "x".repeat(256);
    let mut vectors: Vec<(Vec<u8>, Option<String>)> = [
        // RFC 9651, 3.3.3: a String is in double quotes, of ASCII without controls.
        (r#""hello world""#, Some("hello world")),
        (r#""""#, Some("")),
        (r#""   ""#, Some("   ")),
        (r#""'""#, Some("'")),
        (&format!("\"{long}\""), Some(&long)),
        (&format!("\"{longer}\""), Some(&longer)),
        // 4.2.5: only a quote and a backslash are escaped, and only with a backslash.
        (r#""b\"b""#, Some(r#"b"b"#)),
        (r#""b\\b""#, Some(r"b\b")),
        (r#""\\\"""#, Some(r#"\""#)),
        (r#""b\b""#, None),
        (r#""b\n""#, None),
        (r#""b\""#, None),
        (r#""b\"#, None),
        (r#""\"#, None),
        (r#"""#, None),
        (r#""b"#, None),
        (r#"b""#, None),
        (r#""b"b"#, None),
        (r#""a" "b""#, None),
        (r#"'b'"#, None),
        (r#""b"""#, None),
        // 4.2: spaces around the item are dropped, other white space is not.
        (r#"  "b"  "#, Some("b")),
        ("\t\"b\"", None),
        ("\"b\"\t", None),
        ("", None),
        ("   ", None),
        // Items of other types are no String.
        ("b", None),
        ("*b", None),
        ("1", None),
        ("1.5", None),
        ("?1", None),
        (":YQ==:", None),
        ("@1659578233", None),
        (r#"%"b""#, None),
        (r#"("b")"#, None),
        // A List and a Dictionary are none either; a field that came twice is a List once it is joined.
        (r#""a", "b""#, None),
        (r#""a","#, None),
        (r#"a="b""#, None),
        // 3.1.2: parameters of all types, which the field does not define and which are dropped.
        (r#""b";a"#, Some("b")),
        (r#""b";a=1"#, Some("b")),
        (r#""b"; a=1;   *b=?0"#, Some("b")),
        (
            r#""b";a=-12.5;b="c\"d";c=:YQ==:;d=@-1;e=tok/en:x;f=%"f%c3%bc""#,
            Some("b"),
        ),
        (r#""b" ;a"#, None),
        (r#""b";"#, None),
        (r#""b";A=1"#, None),
        (r#""b";a="#, None),
        (r#""b";a= 1"#, None),
        (r#""b";a=?2"#, None),
        (r#""b";a=1."#, None),
        (r#""b";a=1.1234"#, None),
        (r#""b";a=1234567890123456"#, None),
        (r#""b";a=1234567890123.1"#, None),
        (r#""b";a=("c")"#, None),
        (r#""b";a="c"#, None),
        (r#""b";a=%"%C3%BC""#, None),
        (r#""b";a=%"%ff""#, None),
        (r#""b";a=:Y*:"#, None),
    ]
    .into_iter()
    .map(|(field, found)| (field.as_bytes().to_vec(), found.map(str::to_owned)))
    .collect();
    // Each of the bytes there are, as it is and escaped.
    for byte in 0..=u8::MAX {
        let text = |byte: u8| Some(char::from(byte).to_string());
        let plain = match byte {
            b'"' | b'\\' => None,
            b' '..=b'~' => text(byte),
            _ => None,
        };
        let escaped = if matches!(byte, b'"' | b'\\') {
            text(byte)
        } else {
            None
        };
        vectors.push((vec![b'"', byte, b'"'], plain));
        vectors.push((vec![b'"', b'\\', byte, b'"'], escaped));
    }
    vectors
}

/// What a field with this String is read as.
fn read(found: &Option<String>) -> Result<IdempotencyKey, KeyError> {
    match found {
        None => Err(KeyError::NotAString),
        Some(key) if (1..=255).contains(&key.len()) => Ok(IdempotencyKey(key.clone())),
        Some(key) => Err(KeyError::Length(key.len())),
    }
}

#[test]
fn strings_of_structured_fields() {
    let vectors = vectors();
    let wrong: Vec<_> = vectors
        .iter()
        .filter(|(field, found)| IdempotencyKey::parse(field) != read(found))
        .map(|(field, _)| String::from_utf8_lossy(field))
        .collect();
    println!("figure idempotency/field-vectors: {}", wrong.len());
    assert!(vectors.len() > 550, "{}", vectors.len());
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn bare_values_where_they_are_taken() {
    for (field, key) in [
        (
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            Some("8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ),
        ("  a=b;c  ", Some("a=b;c")),
        (r#""quoted too""#, Some("quoted too")),
        (r#""unfinished"#, None),
        ("a b", None),
        ("a,b", None),
        (r#"a"b"#, None),
        ("ü", None),
        ("a\u{7f}", None),
    ] {
        let read = IdempotencyKey::parse_bare(field.as_bytes());
        let key = key.map(|key| IdempotencyKey(key.to_owned()));
        assert_eq!(read.ok(), key, "{field}");
    }
    for empty in ["", "  ", r#""""#] {
        let read = IdempotencyKey::parse_bare(empty.as_bytes());
        assert_eq!(read, Err(KeyError::Length(0)));
    }
}

/// The examples of RFC 8785 (3.2.2 and 3.2.3), but for its numbers, which are not rounded here.
#[test]
fn json_has_one_form() {
    let numbers_and_strings = br#"{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"#;
    assert_eq!(
        canonical_json(numbers_and_strings).unwrap(),
        "{\"literals\":[null,true,false],\"numbers\":[33333333333333329e-8,1e30,45e-1,2e-3,1e-27],\
         \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
    );
    let names = br#"{ "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis" }"#;
    let says = canonical_json(names).unwrap();
    let order: Vec<_> = [
        "Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew",
    ]
    .map(|word| says.find(word).unwrap())
    .into();
    assert!(order.is_sorted(), "by UTF-16 code units: {says}");
}

#[test]
fn equal_values_have_equal_forms_and_others_have_not() {
    let same: [&[&str]; 5] = [
        &["1", "1.0", "10e-1", "0.1e1", "1E+0", "100e-2", "1.00"],
        &["0", "-0", "0.0", "0e5", "-0.00E-3"],
        &["-12.5", "-125e-1", "-0.125e2"],
        &[r#"{"a":1,"b":[]}"#, "{ \"b\" : [ ] ,\n\"\\u0061\" : 1.0 }"],
        &[r#""\/\u00e9""#, "\"/é\""],
    ];
    for texts in same {
        for text in texts {
            assert_eq!(
                canonical_json(text.as_bytes()),
                canonical_json(texts[0].as_bytes()),
                "{text}"
            );
        }
    }
    let different = [
        "1",
        "10",
        "-1",
        "1.1",
        "\"1\"",
        "[1]",
        "{}",
        "[]",
        "null",
        "\"null\"",
        "9007199254740993",
        "9007199254740992",
        "1e400",
        "1e401",
        r#"{"a":{"b":1}}"#,
        r#"{"a":1,"b":1}"#,
        "[1,[2]]",
        "[[1],2]",
        "\"\\u0000\"",
        "\"\"",
    ];
    let forms: std::collections::HashSet<_> = different
        .map(|text| canonical_json(text.as_bytes()).unwrap())
        .into();
    assert_eq!(forms.len(), different.len());
}

#[test]
fn what_is_no_json_or_means_two_things_has_no_form() {
    let deep = "[".repeat(129) + &"]".repeat(129);
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "1e+",
        "NaN",
        "tru",
        "'a'",
        "\"a",
        "\"\t\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u12\"",
        "1 2",
        "{\"a\":1,\"\\u0061\":1}",
        "1e99999999999999999999",
        &deep,
    ] {
        assert_eq!(canonical_json(text.as_bytes()), None, "{text}");
    }
    assert_eq!(canonical_json(b"\"\xff\""), None);
    let as_deep = "[".repeat(128) + &"]".repeat(128);
    assert_eq!(canonical_json(as_deep.as_bytes()), Some(as_deep));
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9..1e9_f64).prop_map(Into::into),
        "(?s).{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::btree_map("(?s).{0,4}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_field_makes_the_reader_panic(field in proptest::collection::vec(any::<u8>(), 0..300)) {
        let strict = IdempotencyKey::parse(&field);
        let bare = IdempotencyKey::parse_bare(&field);
        // What is a key in quotes is the same key where quotes may be missing.
        if let Ok(key) = &strict {
            prop_assert_eq!(Ok(key), bare.as_ref());
            prop_assert_eq!(IdempotencyKey::parse(key.to_field().unwrap().as_bytes()), strict);
        }
    }

    #[test]
    fn every_printable_key_is_read_as_it_was_written(key in "[ -~]{1,255}") {
        let key = IdempotencyKey(key);
        prop_assert_eq!(IdempotencyKey::parse(key.to_field().unwrap().as_bytes()), Ok(key));
    }

    #[test]
    fn however_json_is_written_its_form_is_one(value in json()) {
        let plain = serde_json::to_vec(&value).unwrap();
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        let form = canonical_json(&plain);
        prop_assert!(form.is_some());
        prop_assert_eq!(&canonical_json(&pretty), &form);
        // The form is JSON of the same value, and its own form.
        let form = form.unwrap();
        prop_assert_eq!(canonical_json(form.as_bytes()), Some(form.clone()));
    }

    #[test]
    fn no_text_makes_the_reader_of_json_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let accepts = canonical_json(&text).is_some();
        // Whoever takes more than the grammar would make one of two texts.
        if accepts {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok() || text.len() > 3);
        }
    }
}
