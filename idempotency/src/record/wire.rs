//! The bytes of a record.
//!
//! ```text
//! magic  version  state
//! "si"   1        'P' owner(24) attempt lease retention heartbeat fingerprint(32)
//!                 'R' attempt
//!                 'C' owner(24) attempt fingerprint(32) 'W' length(4) answer
//!                                                       'K' packing(1) length(4) answer
//!                                                       'T' why(1)
//! ```
//! `packing` has a bit for each: 1 compressed, 2 sealed. Numbers are big-endian, eight bytes unless said otherwise. Every state says how long it is, so a
//! value that was cut off or added to is not taken for a record.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Answer, Completed, Owner, Packed, Pending, Record, Why};
use crate::{error::RecordError, key::Fingerprint};

const MAGIC: &[u8; 2] = b"si";
const VERSION: u8 = 1;
const HEAD: usize = 4;

pub(super) fn encode(record: &Record) -> Bytes {
    match record {
        Record::Pending(pending) => encode_pending(pending),
        Record::Released { attempt } => {
            let mut out = head(b'R', 8);
            out.put_u64(*attempt);
            out.freeze()
        }
        Record::Completed(completed) => encode_completed(completed),
    }
}

pub(super) fn encode_pending(pending: &Pending) -> Bytes {
    let mut out = head(b'P', Owner::LEN + 4 * 8 + 32);
    out.put_slice(pending.owner.as_bytes());
    out.put_u64(pending.attempt);
    out.put_u64(pending.lease_ms);
    out.put_u64(pending.retention_ms);
    out.put_u64(pending.heartbeat);
    out.put_slice(pending.fingerprint.as_bytes());
    out.freeze()
}

fn encode_completed(completed: &Completed) -> Bytes {
    let kept = match &completed.answer {
        Answer::Whole(answer) => answer.len() + 5,
        Answer::Packed(packed) => packed.bytes.len() + 6,
        Answer::Tombstone(_) => 2,
    };
    let mut out = head(b'C', Owner::LEN + 8 + 32 + kept);
    out.put_slice(completed.owner.as_bytes());
    out.put_u64(completed.attempt);
    out.put_slice(completed.fingerprint.as_bytes());
    match &completed.answer {
        Answer::Whole(answer) => put(&mut out, b"W", answer),
        Answer::Packed(packed) => put(&mut out, &[b'K', packing(packed)], &packed.bytes),
        Answer::Tombstone(why) => out.put_slice(&[b'T', code(*why)]),
    }
    out.freeze()
}

fn put(out: &mut BytesMut, kind: &[u8], answer: &Bytes) {
    // An answer of 4 GiB cannot be framed; no store would take it either. It is kept as a tombstone.
    match u32::try_from(answer.len()) {
        Ok(length) => {
            out.put_slice(kind);
            out.put_u32(length);
            out.put_slice(answer);
        }
        Err(_) => out.put_slice(&[b'T', code(Why::Oversize)]),
    }
}

const COMPRESSED: u8 = 1;
const SEALED: u8 = 2;

fn packing(packed: &Packed) -> u8 {
    u8::from(packed.compressed) * COMPRESSED + u8::from(packed.sealed) * SEALED
}

fn head(state: u8, body: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD + body);
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u8(state);
    out
}

pub(super) fn decode(mut bytes: Bytes) -> Result<Record, RecordError> {
    if bytes.len() < HEAD || &bytes[..2] != MAGIC {
        return Err(RecordError::Foreign);
    }
    match bytes[2] {
        VERSION => {}
        0 => return Err(RecordError::Foreign),
        version => return Err(RecordError::Newer { version }),
    }
    let state = bytes[3];
    bytes.advance(HEAD);
    let record = match state {
        b'P' => Record::Pending(Pending {
            owner: Owner::from_bytes(array(&mut bytes)?),
            attempt: number(&mut bytes)?,
            lease_ms: number(&mut bytes)?,
            retention_ms: number(&mut bytes)?,
            heartbeat: number(&mut bytes)?,
            fingerprint: Fingerprint::from_bytes(array(&mut bytes)?),
        }),
        b'R' => Record::Released {
            attempt: number(&mut bytes)?,
        },
        b'C' => Record::Completed(Completed {
            owner: Owner::from_bytes(array(&mut bytes)?),
            attempt: number(&mut bytes)?,
            fingerprint: Fingerprint::from_bytes(array(&mut bytes)?),
            answer: answer(&mut bytes)?,
        }),
        _ => return Err(RecordError::Torn),
    };
    if bytes.is_empty() {
        Ok(record)
    } else {
        Err(RecordError::Torn)
    }
}

fn answer(bytes: &mut Bytes) -> Result<Answer, RecordError> {
    let [kind] = array(bytes)?;
    match kind {
        b'W' => framed(bytes).map(Answer::Whole),
        b'K' => {
            let [packing] = array(bytes)?;
            // Neither of the two would be written whole, and a third is not known.
            if !(COMPRESSED..=COMPRESSED | SEALED).contains(&packing) {
                return Err(RecordError::Torn);
            }
            Ok(Answer::Packed(Packed {
                compressed: packing & COMPRESSED != 0,
                sealed: packing & SEALED != 0,
                bytes: framed(bytes)?,
            }))
        }
        b'T' => {
            let [code] = array(bytes)?;
            why(code).map(Answer::Tombstone).ok_or(RecordError::Torn)
        }
        _ => Err(RecordError::Torn),
    }
}

fn framed(bytes: &mut Bytes) -> Result<Bytes, RecordError> {
    let length = u32::from_be_bytes(array(bytes)?) as usize;
    if bytes.len() != length {
        return Err(RecordError::Torn);
    }
    Ok(bytes.split_to(length))
}

fn array<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], RecordError> {
    let (array, _) = bytes.split_first_chunk::<N>().ok_or(RecordError::Torn)?;
    let array = *array;
    bytes.advance(N);
    Ok(array)
}

fn number(bytes: &mut Bytes) -> Result<u64, RecordError> {
    array(bytes).map(u64::from_be_bytes)
}

fn code(why: Why) -> u8 {
    match why {
        Why::Oversize => 0,
        Why::Streaming => 1,
        Why::Failed => 2,
        Why::Panicked => 3,
        Why::NotKept => 4,
        Why::NotSealed => 5,
    }
}

fn why(code: u8) -> Option<Why> {
    Some(match code {
        0 => Why::Oversize,
        1 => Why::Streaming,
        2 => Why::Failed,
        3 => Why::Panicked,
        4 => Why::NotKept,
        5 => Why::NotSealed,
        _ => return None,
    })
}
