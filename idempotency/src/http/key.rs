//! The key of a request.

use http::HeaderName;

use super::{problem::Problem, structured};

static HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// How many characters a key may have.
const LONGEST: usize = 255;

/// The key of a request, in its extensions.
///
/// An outer layer that finds the key elsewhere, such as in the body, puts it there; an
/// `Idempotency-Key` header goes before it. The handler finds the key there wherever it came from:
/// for a database that keeps it beside the effect, for one. It is held to the same limits as the
/// header: 1 to 255 printable ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub String);

impl std::fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdempotencyKey({} bytes)", self.0.len())
    }
}

/// The key of a request, if it has one.
pub(super) fn read<B>(
    request: &http::Request<B>,
    bare: bool,
) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = request.headers().get_all(&HEADER).iter();
    if let Some(value) = values.next() {
        if values.next().is_some() {
            return Err(Problem::KeyRepeated);
        }
        return header(value.as_bytes(), bare).map(Some);
    }
    match request.extensions().get::<IdempotencyKey>() {
        Some(IdempotencyKey(key)) => limited(key.clone()).map(Some),
        None => Ok(None),
    }
}

fn header(value: &[u8], bare: bool) -> Result<IdempotencyKey, Problem> {
    let trimmed = value.trim_ascii();
    if bare && !trimmed.starts_with(b"\"") {
        // A comma or a space inside would be a list, or several fields joined on the way.
        let plain = |&byte: &u8| byte.is_ascii_graphic() && byte != b',' && byte != b'"';
        if !trimmed.iter().all(plain) {
            return Err(Problem::KeyMalformed);
        }
        return String::from_utf8(trimmed.to_vec())
            .map_err(|_| Problem::KeyMalformed)
            .and_then(limited);
    }
    match structured::string(value) {
        Ok(key) => limited(key),
        Err(structured::NotAString) => Err(Problem::KeyMalformed),
    }
}

fn limited(key: String) -> Result<IdempotencyKey, Problem> {
    let printable = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && (1..=LONGEST).contains(&key.len()) {
        Ok(IdempotencyKey(key))
    } else {
        Err(Problem::KeyMalformed)
    }
}
