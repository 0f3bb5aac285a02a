//! The bytes of the file: a header page with two marks, then frames. No I/O here.
//!
//! ```text
//! 0        magic, version
//! 512      mark: count, end, last, check          the one with the higher count holds
//! 1024     mark: count, end, last, check
//! 4096     frame: length, kind, check, body       until the end of the file
//! ```
//!
//! Numbers are little-endian. A frame's check covers its kind, its body and its own offset, so that a
//! frame is valid only where it was written. The mark says how far the file had been synced: below its
//! end every frame has to be valid, above it a torn frame is what a crash left behind.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::LetterId;

const MAGIC: [u8; 8] = *b"SEAWDLQ\n";
const VERSION: u32 = 1;

/// Where frames begin.
pub(super) const FIRST: u64 = 4096;
/// Bytes of a frame before its body.
pub(super) const HEAD: usize = 16;

const MARK: usize = 32;
/// Each in a sector of its own: a torn write spoils one of them at most.
const MARKS_AT: [u64; 2] = [512, 1024];

/// How far the file was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Marks written so far.
    pub(super) count: u64,
    /// The end of the last synced frame.
    pub(super) end: u64,
    /// The last sequence number given to a letter.
    pub(super) last: u64,
}

impl Mark {
    /// Where the first of the two marks lies.
    pub(super) const FIRST_OFFSET: u64 = MARKS_AT[0];

    /// Where this mark is written: not where the one before it lies.
    pub(super) const fn offset(&self) -> u64 {
        MARKS_AT[(self.count % 2) as usize]
    }

    pub(super) fn encode(&self) -> [u8; MARK] {
        let mut bytes = [0; MARK];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.last.to_le_bytes());
        let check = xxh3_64_with_seed(&bytes[..24], self.offset());
        bytes[24..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(page: &[u8], offset: u64) -> Option<Self> {
        let at = offset as usize;
        let bytes = page.get(at..at + MARK)?;
        let mark = Self {
            count: number(bytes, 0)?,
            end: number(bytes, 8)?,
            last: number(bytes, 16)?,
        };
        (mark.offset() == offset && mark.encode() == bytes).then_some(mark)
    }
}

/// The header page of a file with this mark.
pub(super) fn header(mark: Mark) -> Vec<u8> {
    let mut page = vec![0; FIRST as usize];
    page[..8].copy_from_slice(&MAGIC);
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let at = mark.offset() as usize;
    page[at..at + MARK].copy_from_slice(&mark.encode());
    page
}

/// What a header page says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Synced(Mark),
    /// The beginning of a letter file.
    Cut,
    /// A letter file with no mark that can be read.
    NoMark,
    Version(u32),
    Foreign,
}

impl Header {
    pub(super) fn decode(page: &[u8]) -> Self {
        if !page.starts_with(&MAGIC) {
            return Self::Foreign;
        }
        if page.len() < FIRST as usize {
            return Self::Cut;
        }
        let version = u32::from_le_bytes([page[8], page[9], page[10], page[11]]);
        if version != VERSION {
            return Self::Version(version);
        }
        MARKS_AT
            .into_iter()
            .filter_map(|offset| Mark::decode(page, offset))
            .max_by_key(|mark| mark.count)
            .map_or(Self::NoMark, Self::Synced)
    }
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// A letter, with its sequence number.
    Letter { sequence: u64, json: &'a [u8] },
    /// The letter with this id is removed.
    Removed(LetterId),
}

impl Body<'_> {
    const LETTER: u32 = 1;
    const REMOVED: u32 = 2;

    /// Appends the frame that starts at `offset` of the file.
    pub(super) fn encode(&self, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        let kind = match self {
            Self::Letter { sequence, json } => {
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(json);
                Self::LETTER
            }
            Self::Removed(id) => {
                out.extend_from_slice(&id.to_bytes());
                Self::REMOVED
            }
        };
        let body = start + HEAD;
        // The sizes of letters are checked long before they come here.
        let length = u32::try_from(out.len() - body).expect("a letter is smaller than 4 GiB");
        let check = check(offset, kind, &out[body..]);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&kind.to_le_bytes());
        out[start + 8..body].copy_from_slice(&check.to_le_bytes());
    }
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    length: u32,
    kind: u32,
    check: u64,
}

impl Head {
    pub(super) fn decode(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, d, e, f, g, h, check @ ..] = bytes;
        Self {
            length: u32::from_le_bytes([a, b, c, d]),
            kind: u32::from_le_bytes([e, f, g, h]),
            check: u64::from_le_bytes(check),
        }
    }

    /// The length of the body.
    pub(super) const fn length(&self) -> usize {
        self.length as usize
    }

    /// What the body says, if this frame was written at `offset` as it is.
    pub(super) fn open<'a>(&self, offset: u64, body: &'a [u8]) -> Option<Body<'a>> {
        if check(offset, self.kind, body) != self.check {
            return None;
        }
        match self.kind {
            Body::LETTER => Some(Body::Letter {
                sequence: number(body, 0)?,
                json: &body[8..],
            }),
            Body::REMOVED => Some(Body::Removed(LetterId::from_bytes(body.try_into().ok()?))),
            _ => None,
        }
    }
}

fn check(offset: u64, kind: u32, body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(&kind.to_le_bytes(), offset))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(frame: &[u8], offset: u64) -> Option<Body<'_>> {
        let (head, body) = frame.split_first_chunk::<HEAD>()?;
        Head::decode(*head).open(offset, body)
    }

    #[test]
    fn a_frame_is_valid_only_as_and_where_it_was_written() {
        let letter = Body::Letter {
            sequence: 7,
            json: b"{}",
        };
        let removed = Body::Removed(LetterId::from_bytes([9; 16]));
        for body in [letter, removed] {
            let mut frame = Vec::new();
            body.encode(FIRST, &mut frame);
            assert_eq!(opened(&frame, FIRST), Some(body));
            let body = &frame[HEAD..];
            assert_eq!(
                body.len(),
                Head::decode(*frame.first_chunk().unwrap()).length()
            );
            assert_eq!(opened(&frame, FIRST + 1), None);
            // The other kind, and a kind of nobody's.
            for kind in [1_u32, 2, 3] {
                let mut other = frame.clone();
                other[4..8].copy_from_slice(&kind.to_le_bytes());
                assert!(other == frame || opened(&other, FIRST).is_none());
            }
        }
    }

    #[test]
    fn the_mark_with_the_higher_count_holds_and_a_spoiled_one_does_not_count() {
        let mark = |count| Mark {
            count,
            end: FIRST + count,
            last: count,
        };
        let mut page = header(mark(4));
        let newer = mark(5);
        let at = newer.offset() as usize;
        page[at..at + MARK].copy_from_slice(&newer.encode());
        assert_eq!(Header::decode(&page), Header::Synced(newer));
        page[at] ^= 1;
        assert_eq!(Header::decode(&page), Header::Synced(mark(4)));
        page[mark(4).offset() as usize] ^= 1;
        assert_eq!(Header::decode(&page), Header::NoMark);
    }
}
