//! `group_accuracy`: for tasks with a `group` (MC-TACO, MultiRC and others count questions so).

use std::collections::BTreeMap;

use super::{Further, Measured};
use crate::report::metrics::{Estimate, Metric};

inventory::submit! {
    Further {
        metric: Metric {
            name: "group_accuracy",
            percent: true,
            higher_is_better: Some(true),
            about: "share of groups of items that are all right, such as the answers to one question; only where a task has a `group`",
        },
        of: |measured: &Measured| group_accuracy(&measured.own.right(measured.truth), measured.groups?),
    }
}

/// Share of groups of which every item is right. `groups` has the same number for items that belong together; `None` without items.
fn group_accuracy(right: &[bool], groups: &[u64]) -> Option<Estimate> {
    let mut whole: BTreeMap<u64, bool> = BTreeMap::new();
    right.iter().zip(groups).for_each(|(right, group)| *whole.entry(*group).or_insert(true) &= right);
    Estimate::of(whole.into_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_right_if_all_of_it_is() {
        let groups = [7, 7, 3, 3, 3, 9];
        let of = |right: [bool; 6]| group_accuracy(&right, &groups).unwrap();
        assert_eq!((of([true; 6]).value, of([true; 6]).n), (1.0, 3));
        assert_eq!(of([true, true, true, false, true, true]).value, 2.0 / 3.0);
        assert_eq!(of([true, false, true, false, true, false]).value, 0.0);
        assert_eq!(group_accuracy(&[], &[]), None);
    }
}
