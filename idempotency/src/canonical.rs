//! What a JSON text says, however it is written.

use std::fmt::Write as _;

/// How deep arrays and objects may lie in each other. Deeper texts are compared byte by byte.
const DEEPEST: usize = 128;

/// What a JSON text says, in one form: equal texts come from equal values, and from no others.
///
/// As in RFC 8785, spaces are left out, members are sorted by the UTF-16 code units of their names, and
/// strings are written with the fewest escapes. Unlike there, numbers are not rounded to what a double can
/// hold: they are compared as the decimals that they are, so that two large account numbers never become one.
/// `1`, `1.0` and `10e-1` are the same number, and so are `0` and `-0`.
///
/// `None` for what is no JSON text, has a member twice in one object (its meaning depends on who reads it),
/// half a surrogate pair, or more than 128 levels.
///
/// ```
/// use seawall_idempotency::canonical_json;
///
/// let says = canonical_json(br#"{ "b": [1.0, 10e-1, "\u0041"], "a": null }"#);
/// assert_eq!(says.as_deref(), Some(r#"{"a":null,"b":[1,1,"A"]}"#));
/// assert_eq!(canonical_json(br#"{"a":1,"a":2}"#), None);
/// assert_ne!(canonical_json(b"9007199254740993"), canonical_json(b"9007199254740992"));
/// ```
pub fn canonical_json(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut input = Input { text, at: 0 };
    let mut out = String::with_capacity(text.len());
    input.space();
    input.value(&mut out, DEEPEST)?;
    input.space();
    (input.at == text.len()).then_some(out)
}

struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, out: &mut String) -> Option<()> {
        self.text[self.at..].starts_with(word).then_some(())?;
        self.at += word.len();
        out.push_str(word);
        Some(())
    }

    fn value(&mut self, out: &mut String, deepest: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(out, deepest.checked_sub(1)?),
            b'[' => self.array(out, deepest.checked_sub(1)?),
            b'"' => {
                let string = self.string()?;
                write_string(&string, out);
                Some(())
            }
            b't' => self.word("true", out),
            b'f' => self.word("false", out),
            b'n' => self.word("null", out),
            _ => self.number(out),
        }
    }

    fn object(&mut self, out: &mut String, deepest: usize) -> Option<()> {
        self.next()?;
        let mut members: Vec<(String, String)> = Vec::new();
        self.space();
        if !self.eat(b'}') {
            loop {
                self.space();
                let name = self.string()?;
                self.space();
                self.eat(b':').then_some(())?;
                self.space();
                let mut value = String::new();
                self.value(&mut value, deepest)?;
                members.push((name, value));
                self.space();
                match self.next()? {
                    b',' => {}
                    b'}' => break,
                    _ => return None,
                }
            }
        }
        members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        out.push('{');
        for (at, (name, value)) in members.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_string(name, out);
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        Some(())
    }

    fn array(&mut self, out: &mut String, deepest: usize) -> Option<()> {
        self.next()?;
        out.push('[');
        self.space();
        if !self.eat(b']') {
            loop {
                self.space();
                self.value(out, deepest)?;
                self.space();
                match self.next()? {
                    b',' => out.push(','),
                    b']' => break,
                    _ => return None,
                }
            }
        }
        out.push(']');
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.eat(b'"').then_some(())?;
        let mut string = String::new();
        loop {
            let from = self.at;
            while !matches!(self.peek()?, b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            // Both ends lie beside ASCII, so on borders of characters.
            string.push_str(&self.text[from..self.at]);
            match self.next()? {
                b'"' => return Some(string),
                b'\\' => string.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                if !(0xd800..0xe000).contains(&first) {
                    return char::from_u32(first);
                }
                (self.next()? == b'\\' && self.next()? == b'u').then_some(())?;
                let second = self.unit()?;
                if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
                    return None;
                }
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |unit, _| {
            let digit = char::from(self.next()?).to_digit(16)?;
            Some(unit << 4 | digit)
        })
    }

    fn digits(&mut self) -> &'a str {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        &self.text[from..self.at]
    }

    /// A number as sign, digits without zeros at either end, and a power of ten: one form for each.
    fn number(&mut self, out: &mut String) -> Option<()> {
        let negative = self.eat(b'-');
        let whole = self.digits();
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let mut fraction = "";
        if self.eat(b'.') {
            fraction = self.digits();
            if fraction.is_empty() {
                return None;
            }
        }
        let mut power = 0_i64;
        if self.eat(b'e') || self.eat(b'E') {
            let down = !self.eat(b'+') && self.eat(b'-');
            let digits = self.digits();
            // A power that no 64 bits hold is a number nobody means.
            power = digits.parse().ok()?;
            if down {
                power = -power;
            }
        }
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0').trim_end_matches('0');
        if significant.is_empty() {
            out.push('0');
            return Some(());
        }
        let zeros = all.len() - all.trim_end_matches('0').len();
        let shift = i64::try_from(zeros).ok()? - i64::try_from(fraction.len()).ok()?;
        let power = power.checked_add(shift)?;
        if negative {
            out.push('-');
        }
        out.push_str(significant);
        match power {
            0 => {}
            // As people write it, as long as that is not long.
            1..=21 => (0..power).for_each(|_| out.push('0')),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(out, "e{power}");
            }
        }
        Some(())
    }
}

fn write_string(string: &str, out: &mut String) {
    out.push('"');
    for c in string.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
