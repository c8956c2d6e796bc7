//! Parses the words of a written time.

use jiff::civil::{Date, ISOWeekDate, Time, Weekday};

use super::UtcOffset;

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Names of UTC.
const UTC_NAMES: [&str; 5] = ["UTC", "GMT", "UT", "Z", "z"];

/// A time of day, as written.
#[derive(Clone, Copy)]
pub(super) enum ClockTime {
    At(Time),
    /// 24:00, midnight at the end of the day.
    EndOfDay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HalfDay {
    Am,
    Pm,
}

/// Parses a date, and returns the rest of the word.
pub(super) fn dated(word: &str) -> Option<(Date, &str)> {
    let (head, zone) = word.split_at_checked("2026-12-01".len()).unwrap_or((word, ""));
    calendar(word).map(|date| (date, "")).or_else(|| Some((calendar(head)?, zone)))
}

/// Parses a calendar date, an ordinal date (year and day) or a week date.
pub(super) fn calendar(text: &str) -> Option<Date> {
    if text.contains('W') {
        let text = text.replace('-', "");
        let (year, week) =
            text.split_once('W').filter(|(year, week)| year.len() == 4 && week.len() == 3)?;
        let (week, day) = week.split_at_checked(2)?;
        let day = Weekday::from_monday_one_offset(i8::try_from(digits(day)?).ok()?).ok()?;
        return Some(
            ISOWeekDate::new(digits(year)?, i8::try_from(digits(week)?).ok()?, day).ok()?.date(),
        );
    }
    let ordinal = |year: &str, day: &str| {
        Date::new(digits(year)?, 1, 1).ok()?.with().day_of_year(digits(day)?).build().ok()
    };
    let of = |year: &str, month: &str, day: &str| {
        Date::new(
            digits(year)?,
            i8::try_from(digits(month)?).ok()?,
            i8::try_from(digits(day)?).ok()?,
        )
        .ok()
    };
    let separator =
        text.find(|c: char| !c.is_ascii_digit()).and_then(|at| text.get(at..)?.chars().next());
    let Some(separator) = separator.filter(|c| matches!(c, '-' | '/' | '.')) else {
        return match text.len() {
            7 => ordinal(text.get(..4)?, text.get(4..)?),
            8 => of(text.get(..4)?, text.get(4..6)?, text.get(6..)?),
            _ => None,
        };
    };
    let mut parts = text.split(separator);
    match [
        parts.next()?,
        parts.next()?,
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    ] {
        [year, day, "", ""] if year.len() == 4 && day.len() == 3 && separator == '-' => {
            ordinal(year, day)
        }
        [year, month, day, ""] if year.len() == 4 && month.len() <= 2 && day.len() <= 2 => {
            of(year, month, day)
        }
        // The zero time of .NET. Other dates in this order do not show which number is the month.
        [first, second, "0001", ""] if digits(first) == Some(1) && digits(second) == Some(1) => {
            of("0001", first, second)
        }
        _ => None,
    }
}

/// Parses a whole number of digits only.
pub(super) fn digits(text: &str) -> Option<i16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Parses `h:mm`, `hh`, `hhmm` and longer forms. The fraction is truncated to ns.
pub(super) fn time_of_day(text: &str) -> Option<ClockTime> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let padding = if whole.as_bytes().get(1) == Some(&b':') { "0" } else { "" };
    let is_end = whole.starts_with("24");
    let whole = if is_end { whole.replacen("24", "00", 1) } else { whole.to_owned() };
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let dot = if fraction.is_empty() { "" } else { "." };
    let time: Time = format!("T{padding}{whole}{dot}{fraction}").parse().ok()?;
    match is_end {
        true => (time == Time::midnight()).then_some(ClockTime::EndOfDay),
        false => Some(ClockTime::At(time)),
    }
}

/// Parses an offset: `UTC`, `+0200`, or `GMT+0200`.
pub(super) fn zone_of(word: &str) -> Option<UtcOffset> {
    if UTC_NAMES.contains(&word) {
        return Some(UtcOffset::UTC);
    }
    let offset = word.strip_prefix("UTC").or_else(|| word.strip_prefix("GMT")).unwrap_or(word);
    UtcOffset::parse(offset)
}

/// Returns true for a possible zone name: `CET`, `ChST`, `Europe/Berlin`.
pub(super) fn is_zone_name(word: &str) -> bool {
    let is_path = word.contains('/')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-+".contains(&b));
    let capitals = word.bytes().filter(u8::is_ascii_uppercase).count();
    is_path || capitals >= 2 && word.len() <= 5 && word.bytes().all(|b| b.is_ascii_alphabetic())
}

/// Position, from 1, of the first of `names` that begins with `word`.
pub(super) fn named(names: &[&str], word: &str) -> Option<i8> {
    let is =
        |name: &&str| name.get(..word.len()).is_some_and(|name| name.eq_ignore_ascii_case(word));
    let at = names.iter().position(is).filter(|_| word.len() >= 3)?;
    i8::try_from(at + 1).ok()
}

/// Parses AM or PM.
pub(super) fn half_day(word: &str) -> Option<HalfDay> {
    match word {
        "AM" | "am" | "a.m." | "A.M." => Some(HalfDay::Am),
        "PM" | "pm" | "p.m." | "P.M." => Some(HalfDay::Pm),
        _ => None,
    }
}
