//! Labels and label selectors as numbers, compact and quick to compare. What a selector is about is in `selectors.rs`.

use podgate_api::{LabelSelector, Labels, Operator};

use super::interner::Interner;

/// A string's number.
pub(crate) type Sym = u32;
/// Every string of labels, selectors, names.
pub(crate) type Symbols = Interner<str>;

/// Labels: (key, value), sorted.
pub(crate) type LabelSet = Box<[(Sym, Sym)]>;

/// The labels as numbers, each string with one user more.
pub(crate) fn acquire_labels(symbols: &mut Symbols, labels: &Labels) -> LabelSet {
    let mut set: Vec<_> =
        labels.iter().map(|(k, v)| (symbols.acquire(k.as_str()).0, symbols.acquire(v.as_str()).0)).collect();
    set.sort_unstable();
    set.into()
}

/// Gives the strings back.
pub(crate) fn release_labels(symbols: &mut Symbols, labels: &[(Sym, Sym)]) {
    for (key, value) in labels {
        symbols.release(*key);
        symbols.release(*value);
    }
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Requirement {
    pub(crate) key: Sym,
    pub(crate) operator: Operator,
    /// Sorted.
    pub(crate) values: Box<[Sym]>,
}

/// All requirements of a selector, in its canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Requirements(pub(crate) Box<[Requirement]>);

impl Requirements {
    /// The selector's requirements, each string with one user more.
    pub(crate) fn acquire(symbols: &mut Symbols, selector: &LabelSelector) -> Self {
        let compiled = selector.requirements.iter().map(|r| {
            let mut values: Vec<_> = r.values.iter().map(|v| symbols.acquire(v.as_str()).0).collect();
            values.sort_unstable();
            Requirement { key: symbols.acquire(r.key.as_str()).0, operator: r.operator, values: values.into() }
        });
        Self(compiled.collect())
    }

    /// Gives the strings back.
    pub(crate) fn release(&self, symbols: &mut Symbols) {
        for requirement in &self.0 {
            symbols.release(requirement.key);
            requirement.values.iter().for_each(|v| drop(symbols.release(*v)));
        }
    }

    /// Whether these labels are selected.
    pub(crate) fn matches(&self, labels: &[(Sym, Sym)]) -> bool {
        self.0.iter().all(|requirement| {
            let found = labels.binary_search_by_key(&requirement.key, |l| l.0).ok().map(|i| labels[i].1);
            let listed = |value| requirement.values.binary_search(&value).is_ok();
            match requirement.operator {
                Operator::In => found.is_some_and(listed),
                Operator::NotIn => !found.is_some_and(listed),
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            }
        })
    }

    /// The `In` requirement with the fewest values: whatever is selected has one of these labels.
    pub(crate) fn rarest(&self) -> Option<&Requirement> {
        self.0.iter().filter(|r| r.operator == Operator::In).min_by_key(|r| r.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn requirement() -> impl Strategy<Value = podgate_api::Requirement> {
        let operator = prop_oneof![
            Just(Operator::In),
            Just(Operator::NotIn),
            Just(Operator::Exists),
            Just(Operator::DoesNotExist)
        ];
        ("[ab]", operator, proptest::collection::vec("[xyz]", 1..3))
            .prop_map(|(key, operator, values)| podgate_api::Requirement { key, operator, values })
    }

    proptest! {
        #[test]
        fn selectors_match_as_the_api_says(
            requirements in proptest::collection::vec(requirement(), 0..4),
            labels in proptest::collection::btree_map("[abc]", "[xyz]", 0..3),
        ) {
            let (mut symbols, selector) = (Symbols::default(), LabelSelector::new(requirements));
            let compiled = Requirements::acquire(&mut symbols, &selector);
            let set = acquire_labels(&mut symbols, &labels);
            prop_assert_eq!(compiled.matches(&set), selector.matches(&labels));
            if let Some(rarest) = compiled.rarest().filter(|_| compiled.matches(&set)) {
                prop_assert!(rarest.values.iter().any(|v| set.contains(&(rarest.key, *v))));
            }
            compiled.release(&mut symbols);
            release_labels(&mut symbols, &set);
            prop_assert_eq!(symbols.len(), 0);
        }
    }
}
