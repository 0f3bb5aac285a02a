//! SipHash-1-3 of one number, without the buffer that a hash of any bytes needs.

/// Under keys that nobody outside knows.
#[derive(Clone, Copy)]
pub(super) struct NumberHasher {
    start: [u64; 4],
}

impl NumberHasher {
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

    #[inline]
    pub(super) const fn hash(&self, number: u64) -> u64 {
        let mut state = self.start;
        state[3] ^= number;
        state = round(state);
        state[0] ^= number;
        // Nothing is left over; the highest byte is the length.
        const END: u64 = 8 << 56;
        state[3] ^= END;
        state = round(state);
        state[0] ^= END;
        state[2] ^= 0xff;
        state = round(round(round(state)));
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
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
    use std::hash::Hasher;

    use super::*;

    #[test]
    fn it_is_siphash_1_3() {
        for number in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut theirs = siphasher::sip::SipHasher13::new_with_keys(7, 11);
            theirs.write(&number.to_le_bytes());
            assert_eq!(NumberHasher::new((7, 11)).hash(number), theirs.finish());
        }
    }
}
