//! What was measured: named values, one of each round, of which the median counts.
//!
//! Guarantee: a ratio is made of values of the same round, so that a noisy minute hits both of its sides; what counts of
//! several rounds is their median. A fault (an event lost, refused or dead) is kept apart from every figure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::targets::Goal;

/// A value's place in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FigureKey {
    /// The part of the table.
    pub(crate) section: &'static str,
    /// The line, with its unit.
    pub(crate) name: &'static str,
    /// Whose value it is.
    pub(crate) column: String,
}

/// A value of every round.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    #[serde(flatten)]
    pub(crate) place: FigureKey,
    /// What counts.
    pub(crate) median: f64,
    /// By round.
    pub(crate) values: Vec<f64>,
}

/// Everything that a run has found out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
    goals: BTreeMap<Goal, Vec<f64>>,
    /// What must not happen, and did.
    pub(crate) faults: Vec<String>,
    /// What a reader must know of how something was measured, or why it was not.
    pub(crate) notes: Vec<String>,
}

impl Figures {
    /// Adds a round's value.
    pub(crate) fn add(
        &mut self,
        section: &'static str,
        name: &'static str,
        column: &str,
        value: f64,
    ) {
        let place = FigureKey { section, name, column: column.to_owned() };
        match self.all.iter_mut().find(|figure| figure.place == place) {
            Some(figure) => {
                figure.values.push(value);
                figure.median = median(&figure.values).unwrap_or(value);
            }
            None => self.all.push(Figure { place, median: value, values: vec![value] }),
        }
    }

    /// Adds a round's value of a target.
    pub(crate) fn goal(&mut self, goal: Goal, value: f64) {
        self.goals.entry(goal).or_default().push(value);
    }

    /// What counts of a target, if it was measured.
    pub(crate) fn goal_value(&self, goal: Goal) -> Option<f64> {
        median(self.goals.get(&goal)?)
    }

    /// Something that makes the run fail.
    pub(crate) fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    /// Says something once.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|known| known == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// In the order in which each was measured first.
    pub(crate) fn into_all(self) -> Vec<Figure> {
        self.all
    }
}

/// `part` in `whole`s. Of nothing it is infinite, so that it meets no upper bound by accident.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { f64::INFINITY }
}

/// The value in the middle; of an even number, the mean of the two. `None`: there is none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { sorted[middle - 1].midpoint(upper) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn median_is_the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 8.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn rounds_of_one_key_are_one_figure() {
        let mut figures = Figures::default();
        for (column, value) in [("a", 1.0), ("b", 5.0), ("a", 3.0), ("a", 9.0)] {
            figures.add("section", "name", column, value);
        }
        let all = figures.into_all();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].median, all[0].values.len()), (3.0, 3));
        assert_eq!(all[1].median, 5.0);
    }

    #[test]
    fn ratio_to_zero_meets_no_upper_bound() {
        assert_eq!(ratio(3.0, 1.5), 2.0);
        assert!(ratio(3.0, 0.0) > f64::MAX);
    }

    #[test]
    fn goal_value_is_the_median_of_ratios() {
        let mut figures = Figures::default();
        for (ours, floor) in [(30.0, 10.0), (10.0, 5.0), (90.0, 10.0)] {
            figures.goal(Goal::AcceptedAgainstPool, ratio(ours, floor));
        }
        assert_eq!(figures.goal_value(Goal::AcceptedAgainstPool), Some(3.0));
        assert_eq!(figures.goal_value(Goal::StartWorker), None);
    }
}
