//! [`Interner`]: equal values as one number, counted, so that nothing outlives its last user.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Values by number. A number is given again to another value once the first has no user any more.
#[derive(Debug)]
pub(crate) struct Interner<K: ?Sized> {
    numbers: HashMap<Arc<K>, u32>,
    slots: Vec<Option<(Arc<K>, u32)>>,
    free: Vec<u32>,
}

impl<K: ?Sized> Default for Interner<K> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<K: ?Sized + Eq + Hash> Interner<K> {
    /// The value's number, with one user more, and whether it is new.
    pub(crate) fn acquire(&mut self, value: impl Borrow<K> + Into<Arc<K>>) -> (u32, bool) {
        if let Some(number) = self.numbers.get(value.borrow()).copied() {
            self.retain(number);
            return (number, false);
        }
        let value: Arc<K> = value.into();
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[number as usize] = Some((value.clone(), 1));
        self.numbers.insert(value, number);
        (number, true)
    }

    /// One user more.
    pub(crate) fn retain(&mut self, number: u32) {
        if let Some((_, users)) = &mut self.slots[number as usize] {
            *users += 1;
        }
    }

    /// One user less; the value, if that was the last.
    pub(crate) fn release(&mut self, number: u32) -> Option<Arc<K>> {
        let slot = &mut self.slots[number as usize];
        let (_, users) = slot.as_mut()?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let (value, _) = slot.take()?;
        self.numbers.remove(&value);
        self.free.push(number);
        Some(value)
    }

    /// The number of a value that is there.
    pub(crate) fn get(&self, value: &K) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// The value of a number that is in use.
    pub(crate) fn value(&self, number: u32) -> &Arc<K> {
        match &self.slots[number as usize] {
            Some((value, _)) => value,
            None => unreachable!("number {number} is in use by nobody"),
        }
    }

    /// The value of a number, if it is in use.
    pub(crate) fn try_value(&self, number: u32) -> Option<&Arc<K>> {
        self.slots.get(number as usize)?.as_ref().map(|slot| &slot.0)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// The entry of a list that grows with the numbers of an interner.
pub(crate) fn entry<T: Default>(list: &mut Vec<T>, number: u32) -> &mut T {
    let index = number as usize;
    if index >= list.len() {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_number_until_the_last_user_is_gone() {
        let mut interner = Interner::<str>::default();
        let (a, new) = interner.acquire("a");
        assert!(new);
        assert_eq!(interner.acquire("a"), (a, false));
        let (b, _) = interner.acquire("b");
        assert_ne!(a, b);
        assert_eq!(interner.release(a), None);
        assert_eq!(interner.release(a).as_deref(), Some("a"));
        assert_eq!((interner.get("a"), interner.get("b"), interner.len()), (None, Some(b), 1));
        assert_eq!(interner.acquire("c"), (a, true));
        assert_eq!(&**interner.value(a), "c");
    }
}
