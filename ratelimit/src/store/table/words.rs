use bytemuck::Zeroable;

/// Bytes to a line of cache.
const LINE: usize = 64;

/// Zeroed words that begin with a line of cache. They are neither touched nor paid for before they are used.
pub(super) struct Words<T> {
    words: Box<[T]>,
    skew: usize,
}

impl<T: Zeroable> Words<T> {
    pub(super) fn zeroed(count: usize) -> Self {
        let line = LINE / size_of::<T>();
        let words: Box<[T]> = bytemuck::zeroed_slice_box(count + line);
        let past_line = words.as_ptr() as usize / size_of::<T>() % line;
        Self {
            skew: (line - past_line) % line,
            words,
        }
    }

    /// So many words from there.
    #[inline]
    pub(super) fn chunk<const N: usize>(&self, at: usize) -> &[T; N] {
        let chunk = self.words[self.skew + at..].first_chunk();
        chunk.expect("a place is within its table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_with_a_line_of_cache() {
        fn check<T: Zeroable>() {
            for count in [1, 8, 100, 1 << 16] {
                let words = Words::<T>::zeroed(count);
                let first: &[T; 1] = words.chunk(0);
                assert_eq!(first.as_ptr() as usize % LINE, 0);
                let _: &[T; 1] = words.chunk(count - 1);
            }
        }
        check::<u32>();
        check::<u64>();
    }
}
