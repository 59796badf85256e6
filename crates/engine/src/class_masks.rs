//! [`ClassMasks`]: class → the set of rules that match it, read without a branch. Not here: what the rules are.

/// Eight classes and their masks, on a cache line of their own.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// 0: vacant, with mask 0.
    classes: [u32; LANES],
    masks: [u32; LANES],
}

const LANES: usize = 8;

/// Each class stands in one of two lines that its number chooses (2-choice hashing; Azar et al., Balanced Allocations,
/// 1994), so that lines can be nearly full, and a look-up always reads the same: both, whole.
#[derive(Debug, Clone)]
pub(crate) struct ClassMasks {
    lines: Box<[Line]>,
    used: usize,
}

impl ClassMasks {
    /// With room for this many classes and a few more.
    pub(crate) fn new(classes: usize) -> Self {
        let places = classes + classes / 8 + 1;
        Self { lines: vec![Line::default(); (places * 8).div_ceil(7 * LANES)].into(), used: 0 }
    }

    /// How many classes have an entry.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether one more should make it grow: above 7/8 both lines of a class are often full.
    pub(crate) fn is_full(&self) -> bool {
        (self.used + 1) * 8 > self.lines.len() * LANES * 7
    }

    /// The two lines of a class, by both halves of a product.
    #[inline]
    fn places(&self, class: u32) -> [usize; 2] {
        let hash = u64::from(class).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [hash >> 32, hash & u64::from(u32::MAX)].map(|half| ((half * self.lines.len() as u64) >> 32) as usize)
    }

    /// The masks of these classes together; nothing from those that have none, and from class 0.
    #[inline]
    pub(crate) fn get<const N: usize>(&self, classes: [u32; N]) -> u32 {
        let mut all = [0; LANES];
        for class in classes {
            for place in self.places(class) {
                let Some(line) = self.lines.get(place) else { continue };
                for ((all, own), mask) in all.iter_mut().zip(line.classes).zip(line.masks) {
                    // Arithmetic, not a condition: the compiler would make eight branches of it.
                    *all |= mask & u32::from(own == class).wrapping_neg();
                }
            }
        }
        all.into_iter().fold(0, |masks, mask| masks | mask)
    }

    /// Sets the mask of a class (not 0).
    pub(crate) fn set(&mut self, class: u32, mask: u32) {
        while !self.place(class, mask) {
            self.grow();
        }
    }

    /// More lines, as many as it takes for every entry to find a place.
    fn grow(&mut self) {
        let mut lines = self.lines.len();
        loop {
            lines += lines / 4 + 1;
            let mut larger = Self { lines: vec![Line::default(); lines].into(), used: 0 };
            let mut entries = self.lines.iter().flat_map(|l| l.classes.into_iter().zip(l.masks)).filter(|e| e.0 != 0);
            if entries.all(|(class, mask)| larger.place(class, mask)) {
                *self = larger;
                return;
            }
        }
    }

    /// Sets a mask where the class is, or in the emptier of its lines; false if both are full.
    fn place(&mut self, class: u32, mask: u32) -> bool {
        let places = self.places(class);
        let lane_of = |lines: &[Line], place: usize, class| {
            lines.get(place).and_then(|line| line.classes.iter().position(|c| *c == class))
        };
        let known = places.iter().find_map(|p| Some((*p, lane_of(&self.lines, *p, class)?)));
        // The first vacant lane tells how many are taken: none is ever vacated.
        let vacant = places.iter().filter_map(|p| Some((*p, lane_of(&self.lines, *p, 0)?))).min_by_key(|v| v.1);
        let Some((place, lane)) = known.or(vacant) else { return false };
        self.used += usize::from(known.is_none());
        let line = &mut self.lines[place];
        (line.classes[lane], line.masks[lane]) = (class, mask);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_hash_map_however_it_grows() {
        for (room, step) in [(0, 1), (0, 2), (3000, 2), (10, 7919)] {
            let (mut masks, mut naive) = (ClassMasks::new(room), HashMap::new());
            assert_eq!((masks.get([1]), masks.get([0, 2])), (0, 0));
            for i in 1..3000u32 {
                let class = i.wrapping_mul(step) % 2500 + 1;
                masks.set(class, i);
                naive.insert(class, i);
                assert_eq!(masks.used(), naive.len());
            }
            for class in 0..2600 {
                assert_eq!(masks.get([class, 0]), naive.get(&class).copied().unwrap_or(0), "{class}");
            }
        }
    }

    #[test]
    fn what_was_reserved_fits_into_few_lines() {
        for classes in [0usize, 1, 10, 80, 500] {
            let mut masks = ClassMasks::new(classes);
            let before = masks.lines.len();
            (1..=classes as u32).for_each(|c| masks.set(2 * c, c));
            assert!(masks.lines.len() <= before + before / 4 + 1, "{classes}");
            assert!(masks.lines.len() * LANES <= classes * 2 + 16, "{classes}: {} lines", masks.lines.len());
        }
    }
}
