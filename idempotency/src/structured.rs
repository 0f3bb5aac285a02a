//! Structured field values (RFC 9651): an Item that is a String.

/// Why a value is not one String.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAString;

/// Parses `value` as an Item whose bare item is a String, and drops its parameters. The grammar is
/// strict: one deviation anywhere makes the whole field invalid, parameters included.
pub(crate) fn string(value: &[u8]) -> Result<String, NotAString> {
    let mut input = Input(value);
    input.skip(b' ');
    let string = input.string()?;
    input.parameters()?;
    input.skip(b' ');
    if input.0.is_empty() {
        Ok(string)
    } else {
        Err(NotAString)
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Result<u8, NotAString> {
        let (&first, rest) = self.0.split_first().ok_or(NotAString)?;
        self.0 = rest;
        Ok(first)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), NotAString> {
        if self.next()? == wanted {
            Ok(())
        } else {
            Err(NotAString)
        }
    }

    fn skip(&mut self, byte: u8) {
        self.take_while(|next| next == byte);
    }

    /// How many bytes in a row are as `wanted` says; they are consumed.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let taken = self
            .0
            .iter()
            .position(|&byte| !wanted(byte))
            .unwrap_or(self.0.len());
        self.0 = &self.0[taken..];
        taken
    }

    fn string(&mut self) -> Result<String, NotAString> {
        self.expect(b'"')?;
        // At least the closing quote is no part of it.
        let mut string = String::with_capacity(self.0.len().min(256));
        loop {
            match self.next()? {
                b'"' => return Ok(string),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => string.push(char::from(escaped)),
                    _ => return Err(NotAString),
                },
                printable @ b' '..=b'~' => string.push(char::from(printable)),
                _ => return Err(NotAString),
            }
        }
    }

    fn parameters(&mut self) -> Result<(), NotAString> {
        while self.peek() == Some(b';') {
            self.next()?;
            self.skip(b' ');
            if !matches!(self.next()?, b'a'..=b'z' | b'*') {
                return Err(NotAString);
            }
            self.take_while(
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
            );
            if self.peek() == Some(b'=') {
                self.next()?;
                self.bare_item()?;
            }
        }
        Ok(())
    }

    fn bare_item(&mut self) -> Result<(), NotAString> {
        match self.peek().ok_or(NotAString)? {
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            b'?' => {
                self.next()?;
                if matches!(self.next()?, b'0' | b'1') {
                    Ok(())
                } else {
                    Err(NotAString)
                }
            }
            b':' => {
                self.next()?;
                self.take_while(
                    |byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'/' | b'='),
                );
                self.expect(b':')
            }
            b'@' => {
                self.next()?;
                self.integer(15).map(drop)
            }
            b'%' => self.display_string(),
            b'a'..=b'z' | b'A'..=b'Z' | b'*' => {
                self.take_while(|byte| is_token(byte) || byte == b':' || byte == b'/');
                Ok(())
            }
            _ => Err(NotAString),
        }
    }

    fn integer(&mut self, most: usize) -> Result<usize, NotAString> {
        if self.peek() == Some(b'-') {
            self.next()?;
        }
        match self.take_while(|byte| byte.is_ascii_digit()) {
            digits if digits >= 1 && digits <= most => Ok(digits),
            _ => Err(NotAString),
        }
    }

    fn number(&mut self) -> Result<(), NotAString> {
        let whole = self.integer(15)?;
        if self.peek() == Some(b'.') {
            self.next()?;
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            if whole > 12 || !(1..=3).contains(&fraction) {
                return Err(NotAString);
            }
        }
        Ok(())
    }

    fn display_string(&mut self) -> Result<(), NotAString> {
        self.expect(b'%')?;
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return std::str::from_utf8(&text).map(drop).map_err(|_| NotAString),
                b'%' => text.push(hex(self.next()?)? << 4 | hex(self.next()?)?),
                printable @ b' '..=b'~' => text.push(printable),
                _ => return Err(NotAString),
            }
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Only lower case: the grammar allows no other.
fn hex(digit: u8) -> Result<u8, NotAString> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotAString),
    }
}
