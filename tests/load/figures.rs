//! Collects measured values: named figures with one value per round.
//!
//! # Guarantees
//!
//! - The median of the rounds counts (`rounds_of_one_key_are_one_figure`).
//! - A ratio divides values of the same round, so that a noisy minute affects both
//!   (`goal_value_is_the_median_of_ratios`).
//! - A fault (an event lost, refused or dead) is separate from every figure and fails the run
//!   (`lost_event_fails_every_run`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::targets::Goal;

/// Position of a figure in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FigureKey {
    /// Part of the table.
    pub(crate) section: &'static str,
    /// Row, with its unit.
    pub(crate) name: &'static str,
    /// Column: the measured system.
    pub(crate) column: String,
}

/// Value of every round under one name.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    #[serde(flatten)]
    pub(crate) key: FigureKey,
    /// Median of `values`.
    pub(crate) median: f64,
    /// One value per round.
    pub(crate) values: Vec<f64>,
}

/// Results of a load run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
    goals: BTreeMap<Goal, Vec<f64>>,
    /// Errors that fail the run, such as a lost event.
    pub(crate) faults: Vec<String>,
    /// Remarks on how a value was measured, or why it was not.
    pub(crate) notes: Vec<String>,
}

impl Figures {
    /// Adds the value of a round.
    pub(crate) fn add(
        &mut self,
        section: &'static str,
        name: &'static str,
        column: &str,
        value: f64,
    ) {
        let key = FigureKey { section, name, column: column.to_owned() };
        match self.all.iter_mut().find(|figure| figure.key == key) {
            Some(figure) => {
                figure.values.push(value);
                figure.median = median(&figure.values).unwrap_or(value);
            }
            None => self.all.push(Figure { key, median: value, values: vec![value] }),
        }
    }

    /// Adds the value of a round for a goal.
    pub(crate) fn goal(&mut self, goal: Goal, value: f64) {
        self.goals.entry(goal).or_default().push(value);
    }

    /// Returns the median of a goal, or `None` if it was not measured.
    pub(crate) fn goal_value(&self, goal: Goal) -> Option<f64> {
        median(self.goals.get(&goal)?)
    }

    /// Adds an error that fails the run.
    pub(crate) fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    /// Adds a remark, unless it is known.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|known| known == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// Returns all figures in the order of their first value.
    pub(crate) fn into_all(self) -> Vec<Figure> {
        self.all
    }
}

/// Returns `part / whole`, and infinity if `whole` is zero, so that no upper bound is met.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { f64::INFINITY }
}

/// Returns the median; for an even count, the mean of the middle two. `None` for no values.
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
        for (ingress, pool) in [(30.0, 10.0), (10.0, 5.0), (90.0, 10.0)] {
            figures.goal(Goal::AcceptedAgainstPool, ratio(ingress, pool));
        }
        assert_eq!(figures.goal_value(Goal::AcceptedAgainstPool), Some(3.0));
        assert_eq!(figures.goal_value(Goal::StartWorker), None);
    }
}
