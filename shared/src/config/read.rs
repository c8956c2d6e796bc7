//! Readers of the variables in the table.
//!
//! A reader returns the default of the table if the variable is not set or not valid. In the second
//! case [`Env::finish`] fails.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::Env;
use super::variables::{Values, Variable};

impl Env {
    /// Text in `variable`, or its default.
    pub fn text_or_default(&self, variable: &Variable) -> String {
        let default = variable.default_text().unwrap_or_default();
        self.string(variable.name, &default)
    }

    /// Switch in `variable`, or false.
    pub fn switch(&self, variable: &Variable) -> bool {
        debug_assert_eq!(variable.values, Values::Flag, "{}", variable.name);
        self.flag(variable.name, false)
    }

    /// Address in `variable`, or its default.
    pub fn socket_address(&self, variable: &Variable) -> SocketAddr {
        let default = variable.default_text().and_then(|text| text.parse().ok());
        debug_assert!(default.is_some(), "{} has no default address", variable.name);
        self.address(variable.name, default.unwrap_or(([0, 0, 0, 0], 0).into()))
    }

    /// Word in `variable` as a `T`, whose default is the one in the table. The error of `T` must
    /// not quote the text.
    pub fn choice<T>(&self, variable: &Variable) -> T
    where
        T: FromStr<Err: Display> + Default,
    {
        self.parse(variable.name, T::default())
    }

    /// Number in `variable`, or its default. `T` holds every number within the bounds.
    pub fn number<T>(&self, variable: &Variable) -> T
    where
        T: TryFrom<u64> + Default,
    {
        let Values::Number { default, .. } = variable.values else {
            debug_assert!(false, "{} is not a number", variable.name);
            return T::default();
        };
        self.number_or(variable, default.unwrap_or_default())
    }

    /// Number in `variable`, or `default` in place of the table's. `T` holds every number within
    /// the bounds.
    pub fn number_or<T>(&self, variable: &Variable, default: u64) -> T
    where
        T: TryFrom<u64> + Default,
    {
        let Values::Number { min, max, .. } = variable.values else {
            debug_assert!(false, "{} is not a number", variable.name);
            return T::default();
        };
        let number = self.bounded(variable.name, default, min..=max);
        T::try_from(number).unwrap_or_default()
    }

    /// Number between 0 and 1 in `variable`, or 1.
    pub fn fraction(&self, variable: &Variable) -> f64 {
        debug_assert_eq!(variable.values, Values::Fraction, "{}", variable.name);
        self.bounded(variable.name, 1.0, 0.0..=1.0)
    }

    /// Duration in `variable`, or its default, or zero if it has none.
    pub fn span(&self, variable: &Variable) -> Duration {
        let Values::Duration { unit, default, min, max } = variable.values else {
            debug_assert!(false, "{} is not a duration", variable.name);
            return Duration::ZERO;
        };
        self.duration(variable.name, unit, default.unwrap_or_default(), min..=max)
    }

    /// Duration in `variable`, if it is set.
    pub fn optional_span(&self, variable: &Variable) -> Option<Duration> {
        self.opt(variable.name).map(|_| self.span(variable))
    }

    /// Size in `variable`, or its default.
    pub fn size(&self, variable: &Variable) -> usize {
        self.size_of_at_least(variable, 0)
    }

    /// Size in `variable`, or its default, both at least `least`.
    pub fn size_of_at_least(&self, variable: &Variable, least: usize) -> usize {
        let Values::Size { default, min, max } = variable.values else {
            debug_assert!(false, "{} is not a size", variable.name);
            return least;
        };
        let of = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        self.bytes(variable.name, of(default).max(least), of(min).max(least)..=of(max))
    }
}
