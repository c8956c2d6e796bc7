//! Parses durations and sizes.
//!
//! A bare number has the unit of its variable. Any other unit is written out: `1500ms`, `30s`,
//! `5m`, `24h`, `7d`, `2w`, `512k`, `1MB`, `1MiB`, `2GiB`.

use std::time::Duration;

/// Unit of a bare number in a variable that holds a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// `…_MS`, and variables of earlier systems in milliseconds.
    Milliseconds,
    /// `…_HOURS`.
    Hours,
    /// `…_DAYS`.
    Days,
}

impl TimeUnit {
    /// Name of the unit in error messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "milliseconds",
            Self::Hours => "hours",
            Self::Days => "days",
        }
    }

    /// Length of the unit in milliseconds.
    pub(super) const fn millis(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Hours => 3_600_000,
            Self::Days => 86_400_000,
        }
    }
}

const TIME_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("sec", 1_000),
    ("m", 60_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// Size units: powers of 1000 for SI prefixes, of 1024 for binary prefixes (IEC 80000-13).
const SIZE_UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
];

/// Parses a duration. A bare number is in `unit`.
pub(super) fn duration(text: &str, unit: TimeUnit) -> Option<Duration> {
    scaled(text, TIME_UNITS, unit.millis()).map(Duration::from_millis)
}

/// Parses a size in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    scaled(text, SIZE_UNITS, 1)
}

/// Parses a whole number and a unit. Fractions are refused: `1.5h` must be written as `90m`.
fn scaled(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = if unit.is_empty() {
        bare
    } else {
        units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_or_the_variables_own() {
        let millis = |text, unit| duration(text, unit).map(|found| found.as_millis());
        for (text, expected) in [
            ("1500", 1_500),
            ("1500ms", 1_500),
            ("30s", 30_000),
            ("30 sec", 30_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("24h", 86_400_000),
            ("7D", 604_800_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(millis(text, TimeUnit::Milliseconds), Some(expected), "{text}");
        }
        assert_eq!(millis("2", TimeUnit::Hours), Some(7_200_000));
        assert_eq!(millis("36h", TimeUnit::Days), Some(129_600_000));
    }

    #[test]
    fn sizes_are_decimal_or_binary() {
        for (text, expected) in [
            ("1048576", 1_048_576),
            ("512k", 512_000),
            ("1MB", 1_000_000),
            ("1 MiB", 1_048_576),
            ("1Mi", 1_048_576),
            ("2gib", 2_147_483_648),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn quantity_of_another_form_is_rejected() {
        for text in
            ["", "s", "-1", "1.5h", "1e3", "5 fortnights", "1MBps", "99999999999999999999", "٣s"]
        {
            assert_eq!(duration(text, TimeUnit::Milliseconds), None, "{text}");
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615d", TimeUnit::Days), None, "overflow");
    }
}
