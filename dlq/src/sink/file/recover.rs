//! Opening a file: what is in it, and how far it can be trusted.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use super::{
    frame::{Body, FIRST, HEAD, Head, Header, Mark},
    index::{Entry, Index},
};
use crate::Letter;

/// Why a file of letters was not opened. The file is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another sink has it open, in this process or another.
    InUse,
    /// It is not a file of letters.
    Foreign,
    /// It was written by a later version of this crate.
    Version(u32),
    /// A part that had been synced is no longer as it was written.
    Damaged {
        /// Where the damage begins, in bytes.
        offset: u64,
    },
    /// Reading or writing failed.
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("the file of letters is in use"),
            Self::Foreign => f.write_str("not a file of letters"),
            Self::Version(version) => {
                write!(
                    f,
                    "a file of letters of version {version}, which this program cannot read"
                )
            }
            Self::Damaged { offset } => {
                write!(f, "the file of letters is damaged at byte {offset}")
            }
            Self::Io(_) => f.write_str("the file of letters cannot be opened"),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What a file holds.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) mark: Mark,
    /// The end of the last valid frame. What lies above is torn.
    pub(super) end: u64,
}

/// Reads the whole file and changes nothing.
pub(super) fn recover(file: &File) -> Result<Recovered, OpenError> {
    let mut page = Vec::with_capacity(FIRST as usize);
    let mut reader = io::BufReader::with_capacity(1 << 16, file);
    reader.seek(SeekFrom::Start(0))?;
    (&mut reader).take(FIRST).read_to_end(&mut page)?;
    let mark = match Header::decode(&page) {
        Header::Synced(mark) => mark,
        Header::Cut => {
            return Err(OpenError::Damaged {
                offset: page.len() as u64,
            });
        }
        Header::NoMark => {
            return Err(OpenError::Damaged {
                offset: Mark::FIRST_OFFSET,
            });
        }
        Header::Version(version) => return Err(OpenError::Version(version)),
        Header::Foreign => return Err(OpenError::Foreign),
    };
    let size = file.metadata()?.len();
    let mut index = Index::after(mark.last);
    let mut offset = FIRST;
    let mut body = Vec::new();
    while let Some(head) = read_frame(&mut reader, size - offset, &mut body)? {
        let Some(opened) = head.open(offset, &body) else {
            break;
        };
        let length = (HEAD + head.length()) as u64;
        match opened {
            Body::Letter { sequence, json } => {
                let entry = match Letter::from_json(json) {
                    Ok(letter) => Entry::new(&letter, offset, length),
                    Err(_) => Entry::unreadable(json, offset, length),
                };
                index.insert(sequence, entry);
            }
            Body::Removed(id) => index.remove(id),
        }
        offset += length;
    }
    // Synced once, and no longer there: this is no torn tail.
    if offset < mark.end {
        return Err(OpenError::Damaged { offset });
    }
    Ok(Recovered {
        index,
        mark,
        end: offset,
    })
}

/// Reads the next frame into `body`, if there are enough bytes `left` for one.
fn read_frame(reader: &mut impl Read, left: u64, body: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let Some(left) = left.checked_sub(HEAD as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; HEAD];
    reader.read_exact(&mut bytes)?;
    let head = Head::decode(bytes);
    // A length that cannot be is not allocated.
    if head.length() as u64 > left {
        return Ok(None);
    }
    body.resize(head.length(), 0);
    reader.read_exact(body)?;
    Ok(Some(head))
}

/// Reads the JSON of the letter whose frame lies at `entry`. `None` if it is no longer intact.
pub(super) fn read_letter(file: &File, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; entry.length as usize];
    file.read_exact_at(&mut frame, entry.offset)?;
    let Some((head, body)) = frame.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    match Head::decode(*head).open(entry.offset, body) {
        Some(Body::Letter { json, .. }) => Ok(Some(json.to_vec())),
        _ => Ok(None),
    }
}
