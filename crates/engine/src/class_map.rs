//! [`ClassMap`]: class → value, as small and as quick to search as it gets. Not here: what the values mean.

/// Open addressing, u32 (not 0) → u32, at most 2/3 full.
#[derive(Debug, Clone)]
pub(crate) struct ClassMap {
    slots: Box<[(u32, u32)]>,
    used: usize,
    /// A bit for each hash that a class in here has: most look-ups find nothing, and end here, without a look into the
    /// slots (which are a cache line further away).
    filter: [u64; 4],
}

/// No class has this number.
const VACANT: u32 = 0;

impl ClassMap {
    pub(crate) fn new() -> Self {
        Self { slots: Box::new([]), used: 0, filter: [0; 4] }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether one more makes it grow.
    pub(crate) fn is_full(&self) -> bool {
        (self.used + 1) * 3 > self.slots.len() * 2
    }

    #[inline]
    fn start(key: u32) -> usize {
        (u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }

    /// The hash's bit in the filter. Its upper bits: the lower ones choose the slot.
    #[inline]
    fn filtered(start: usize) -> (usize, u64) {
        (start >> 30 & 3, 1 << (start >> 24 & 63))
    }

    /// The class' value.
    #[inline]
    pub(crate) fn get(&self, key: u32) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let start = Self::start(key);
        let (word, bit) = Self::filtered(start);
        if self.filter[word] & bit == 0 {
            return None;
        }
        for i in 0..self.slots.len() {
            match self.slots.get(start.wrapping_add(i) & mask) {
                Some((VACANT, _)) | None => return None,
                Some((k, value)) if *k == key => return Some(*value),
                Some(_) => {}
            }
        }
        None
    }

    /// Sets the class' value.
    pub(crate) fn set(&mut self, key: u32, value: u32) {
        if self.is_full() {
            let larger = (self.slots.len() * 2).max(4);
            let old = std::mem::replace(&mut self.slots, vec![(VACANT, 0); larger].into());
            self.used = 0;
            old.iter().filter(|s| s.0 != VACANT).for_each(|s| self.place(s.0, s.1));
        }
        self.place(key, value);
    }

    fn place(&mut self, key: u32, value: u32) {
        let mask = self.slots.len().wrapping_sub(1);
        let start = Self::start(key);
        let (word, bit) = Self::filtered(start);
        self.filter[word] |= bit;
        for i in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(start.wrapping_add(i) & mask)
                && (slot.0 == VACANT || slot.0 == key)
            {
                self.used += usize::from(slot.0 == VACANT);
                *slot = (key, value);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_hash_map() {
        let (mut map, mut naive) = (ClassMap::new(), HashMap::new());
        assert_eq!(map.get(1), None);
        for i in 0..3000u32 {
            let class = i.wrapping_mul(7919) % 2000 + 1;
            map.set(class, i);
            naive.insert(class, i);
            assert_eq!(map.used(), naive.len());
        }
        for class in 0..2500 {
            assert_eq!(map.get(class), naive.get(&class).copied(), "{class}");
        }
    }
}
