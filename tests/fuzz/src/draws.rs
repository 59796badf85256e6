//! The generator's draws, taken from the fuzzer's bytes: a change of one byte is a change of one draw.

/// Draws one byte each, or two where a byte is not enough. When the bytes are used up, it goes on at random (SplitMix64,
/// begun from their number and the last of them), so that a short input is a whole world too.
#[derive(Debug, Clone)]
pub struct Rng {
    bytes: Vec<u8>,
    at: usize,
    state: u64,
}

impl Rng {
    /// From a seed alone, as the property tests do.
    pub fn new(seed: u64) -> Self {
        Rng { bytes: Vec::new(), at: 0, state: seed }
    }

    /// From these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let last = bytes.last_chunk::<4>().map_or(0, |four| u64::from(u32::from_le_bytes(*four)));
        Rng { bytes: bytes.to_vec(), at: 0, state: last << 32 | bytes.len() as u64 }
    }

    /// Whether the bytes are used up.
    pub fn is_over(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        if let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            return u64::from(byte);
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = if bound > 256 { self.next() << 8 ^ self.next() } else { self.next() };
        (wide % bound as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
