//! SipHash-1-3 in one go, without the buffer that a hash of text in pieces needs.

/// Under keys that nobody outside knows.
#[derive(Clone, Copy)]
pub(super) struct KeyedHasher {
    start: [u64; 4],
}

impl KeyedHasher {
    pub(super) const fn new((one, other): (u64, u64)) -> Self {
        Self {
            start: [
                one ^ 0x736f_6d65_7073_6575,
                other ^ 0x646f_7261_6e64_6f6d,
                one ^ 0x6c79_6765_6e65_7261,
                other ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Two words of bytes: the second is SipHash-1-3 of them. The first is drawn from the same last state by another
    /// sum, and only spreads keys: it makes the second no weaker, and no more rounds are spent on it.
    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> (u64, u64) {
        let mut state = self.start;
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            state = absorb(state, u64::from_le_bytes(*word));
        }
        let last = rest_of(bytes) | (bytes.len() as u64) << 56;
        let [a, b, c, d] = finish(absorb(state, last));
        (b ^ d, a ^ b ^ c ^ d)
    }

    /// The same of a number, as eight bytes.
    #[inline]
    pub(super) const fn hash_number(&self, number: u64) -> (u64, u64) {
        // Nothing is left over; the highest byte is the length.
        let [a, b, c, d] = finish(absorb(absorb(self.start, number), 8 << 56));
        (b ^ d, a ^ b ^ c ^ d)
    }
}

/// The bytes after the last whole word, as the low bytes of one.
#[inline]
fn rest_of(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let rest = length % 8;
    if rest == 0 {
        return 0;
    }
    if let Some(last) = bytes.last_chunk::<8>() {
        // They are the high bytes of the last eight.
        return u64::from_le_bytes(*last) >> (64 - 8 * rest);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let low = u64::from(u32::from_le_bytes(*first));
        let high = u64::from(u32::from_le_bytes(*last));
        return low | high << (8 * (length - 4));
    }
    // Three bytes at most, of which some may be the same one.
    let at = |place: usize| u64::from(bytes[place]) << (8 * place);
    at(0) | at(length / 2) | at(length - 1)
}

#[inline]
const fn absorb(mut state: [u64; 4], word: u64) -> [u64; 4] {
    state[3] ^= word;
    state = round(state);
    state[0] ^= word;
    state
}

#[inline]
const fn finish(mut state: [u64; 4]) -> [u64; 4] {
    state[2] ^= 0xff;
    round(round(round(state)))
}

#[inline]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs(bytes: &[u8]) -> u64 {
        siphasher::sip::SipHasher13::new_with_keys(7, 11).hash(bytes)
    }

    #[test]
    fn a_number_is_hashed_by_siphash_1_3() {
        for number in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let (_, ours) = KeyedHasher::new((7, 11)).hash_number(number);
            assert_eq!(ours, theirs(&number.to_le_bytes()));
        }
    }

    #[test]
    fn bytes_of_any_length_are_hashed_by_siphash_1_3() {
        let bytes: Vec<u8> = (0..100).map(|n: u8| n.wrapping_mul(91)).collect();
        for length in 0..bytes.len() {
            let (_, ours) = KeyedHasher::new((7, 11)).hash(&bytes[..length]);
            assert_eq!(ours, theirs(&bytes[..length]), "{length} bytes");
        }
    }

    #[test]
    fn the_word_that_spreads_keys_is_even_and_tells_what_the_other_does_not() {
        let hasher = KeyedHasher::new((7, 11));
        let mut places = [0_u32; 64];
        let mut joint = [0_u32; 256];
        for number in 0_u32..64_000 {
            let (place, tag) = hasher.hash(&number.to_le_bytes());
            places[(place >> 58) as usize] += 1;
            joint[((place >> 60) << 4 | tag >> 60) as usize] += 1;
        }
        assert!(places.iter().all(|count| (850..1_150).contains(count)));
        assert!(joint.iter().all(|count| (170..330).contains(count)));
    }
}
