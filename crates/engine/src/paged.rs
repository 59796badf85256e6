//! [`Paged`]: a vector whose copies share their pages, so that changing one entry copies one page.

use std::fmt;
use std::sync::Arc;

/// A persistent vector of `PAGE`-entry pages. A clone shares every page; writing to a shared page copies that page
/// and the list of pages. Entries never written read as `T::default()`.
pub(crate) struct Paged<T, const PAGE: usize> {
    pages: Arc<[Arc<[T; PAGE]>]>,
}

impl<T: Clone + Default, const PAGE: usize> Paged<T, PAGE> {
    pub(crate) fn new() -> Self {
        Self { pages: Arc::new([]) }
    }

    /// The entry, if its page exists.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.pages.get(index / PAGE)?.get(index % PAGE)
    }

    /// Writes one entry, growing as needed.
    pub(crate) fn set(&mut self, index: u32, value: T) {
        let index = index as usize;
        if index / PAGE >= self.pages.len() {
            self.grow(index / PAGE + 1);
        }
        if let Some(page) = Arc::make_mut(&mut self.pages).get_mut(index / PAGE)
            && let Some(entry) = Arc::make_mut(page).get_mut(index % PAGE)
        {
            *entry = value;
        }
    }

    /// Room for `pages` pages and some more; the new ones are one shared empty page until they are written.
    fn grow(&mut self, pages: usize) {
        let empty: Arc<[T; PAGE]> = Arc::new(std::array::from_fn(|_| T::default()));
        let spare = pages / 4 + 1;
        let missing = pages + spare - self.pages.len();
        self.pages = self.pages.iter().cloned().chain(std::iter::repeat_n(empty, missing)).collect();
    }

    /// Every entry that has a page, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }
}

impl<T, const PAGE: usize> Clone for Paged<T, PAGE> {
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone() }
    }
}

impl<T, const PAGE: usize> fmt::Debug for Paged<T, PAGE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages of {PAGE}", self.pages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_and_defaults_elsewhere() {
        let mut paged = Paged::<u32, 8>::new();
        assert_eq!(paged.get(0), None);
        paged.set(100, 7);
        assert_eq!(paged.get(100), Some(&7));
        assert_eq!(paged.get(99), Some(&0));
        assert_eq!(paged.get(100_000), None);
        assert_eq!(paged.iter().filter(|v| **v == 7).count(), 1);
    }

    #[test]
    fn a_copy_does_not_see_later_writes_and_shares_the_other_pages() {
        let mut paged = Paged::<u32, 8>::new();
        for i in 0..64 {
            paged.set(i, i);
        }
        let copy = paged.clone();
        paged.set(3, 1000);
        assert_eq!((copy.get(3), paged.get(3)), (Some(&3), Some(&1000)));
        let shared = copy.pages.iter().zip(paged.pages.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, copy.pages.len() - 1);
    }
}
