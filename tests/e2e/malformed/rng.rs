//! Reproducible random numbers.

/// SplitMix64 generator, which gives the same numbers on every machine and version.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Random bytes that HTTP permits in a header value. Not all of them are text.
    pub(super) fn header_value(&mut self, most: usize) -> Vec<u8> {
        let fits = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
        self.bytes(most).into_iter().filter(fits).collect()
    }
}
