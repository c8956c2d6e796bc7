//! Reads dates and times that are written as words and numbers.
//!
//! # Design
//!
//! The shape of each word decides its meaning, and each part of a time occurs once. So the words
//! may have any order. A text with a word that does not fit is not a time.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::fmt::rfc2822;

use super::words::{
    ClockTime, HalfDay, MONTHS, WEEKDAYS, calendar, dated, digits, half_day, is_zone_name, named,
    time_of_day, zone_of,
};
use super::{UtcOffset, millis};
use crate::event::Millis;

/// North American zones of RFC 2822. There, each name has one offset.
const RFC2822_NAMES: [&str; 8] = ["EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"];

/// Reads a time. `default` is the offset of a time without one.
pub(super) fn read(text: &str, default: UtcOffset) -> Option<Millis> {
    DateTimeParts::read(text).and_then(|parts| parts.instant(default)).or_else(|| standard(text))
}

/// Reads RFC 2822 and RFC 850. Only these define zone names and years of two digits.
fn standard(text: &str) -> Option<Millis> {
    let zone = text.split('(').next()?.split_whitespace().last()?;
    // RFC 2822 reads every other name as UTC.
    if !RFC2822_NAMES.contains(&zone) && zone_of(zone).is_none() {
        return None;
    }
    let at = match httpdate::parse_http_date(text) {
        Ok(at) => Timestamp::try_from(at).ok()?,
        Err(_) => {
            rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?
        }
    };
    Some(millis(at))
}

/// Parts of a time that were found in a text.
#[derive(Default)]
struct DateTimeParts {
    date: Option<Date>,
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    clock: Option<ClockTime>,
    half: Option<HalfDay>,
    offset: Option<UtcOffset>,
    /// True if a zone's name was found beside its offset.
    zone: bool,
}

impl DateTimeParts {
    fn read(text: &str) -> Option<Self> {
        // Parentheses hold the zone's name in the sender's language.
        let comment = text.strip_suffix(')').and_then(|text| text.split_once('('));
        let mut parts = Self::default();
        for word in comment.map_or(text, |(text, _)| text).split_whitespace() {
            parts.word(word.strip_suffix(',').unwrap_or(word))?;
        }
        (comment.is_none() || parts.offset.is_some()).then_some(parts)
    }

    fn instant(&self, default: UtcOffset) -> Option<Millis> {
        let at = self.local()?;
        match self.offset {
            Some(offset) => offset.instant(at),
            // The epoch without an offset means "no time" in any zone.
            None if at == DateTime::constant(1970, 1, 1, 0, 0, 0, 0) => Some(0),
            None => default.instant(at),
        }
    }

    fn local(&self) -> Option<DateTime> {
        let date = match self.date {
            Some(date) => date,
            None => Date::new(self.year?, self.month?, self.day?).ok()?,
        };
        match (self.clock, self.half) {
            (None, None) => Some(date.to_datetime(Time::midnight())),
            (Some(ClockTime::At(time)), None) => Some(date.to_datetime(time)),
            (Some(ClockTime::EndOfDay), None) => {
                Some(date.tomorrow().ok()?.to_datetime(Time::midnight()))
            }
            (Some(ClockTime::At(time)), Some(half)) => {
                // Some senders append AM or PM to hours from 0 to 23.
                let hour = match (half, time.hour()) {
                    (HalfDay::Am, 0 | 12) => 0,
                    (HalfDay::Am, hour @ 1..=11) | (HalfDay::Pm, hour @ 12..) => hour,
                    (HalfDay::Pm, hour @ 1..=11) => hour + 12,
                    _ => return None,
                };
                Some(date.to_datetime(time.with().hour(hour).build().ok()?))
            }
            (None | Some(ClockTime::EndOfDay), Some(_)) => None,
        }
    }

    /// Adds one word. Returns `None` if it does not fit.
    fn word(&mut self, word: &str) -> Option<()> {
        match word.bytes().next()? {
            b'+' | b'-' => self.offset(UtcOffset::parse(word)?),
            b'0'..=b'9' => self.digits(word),
            _ => self.name(word),
        }
    }

    /// Adds an offset. Go prints it twice for a zone without a name.
    fn offset(&mut self, offset: UtcOffset) -> Option<()> {
        match self.offset.replace(offset) {
            None => Some(()),
            Some(before) if before == offset => self.zone(),
            Some(_) => None,
        }
    }

    fn zone(&mut self) -> Option<()> {
        (self.offset.is_some() && !std::mem::replace(&mut self.zone, true)).then_some(())
    }

    fn digits(&mut self, word: &str) -> Option<()> {
        let is_dated = self.date.is_some()
            || self.year.or(self.day.map(i16::from)).is_some()
            || self.month.is_some();
        if !is_dated {
            if let Some((date, clock)) = word.split_once(['T', 't'])
                && let Some(date) = calendar(date)
            {
                self.date = Some(date);
                return self.clock(clock);
            }
            if let Some((date, zone)) = dated(word) {
                self.date = Some(date);
                return if zone.is_empty() { Some(()) } else { self.offset(zone_of(zone)?) };
            }
        }
        if self.clock.is_none() && (self.date.is_some() || word.contains(':')) {
            return self.clock(word);
        }
        // `01-Dec-2026`, or one part of it.
        word.split('-').try_for_each(|part| self.date_part(part))
    }

    fn date_part(&mut self, part: &str) -> Option<()> {
        if let Some(month) = named(&MONTHS, part) {
            return once(&mut self.month, month);
        }
        match part.len() {
            1 | 2 => once(&mut self.day, i8::try_from(digits(part)?).ok()?),
            4 => once(&mut self.year, digits(part)?),
            _ => None,
        }
    }

    /// Adds a time of day, and the suffix that follows it without a blank.
    fn clock(&mut self, word: &str) -> Option<()> {
        let (time, annotated) = match word.strip_suffix(']').and_then(|word| word.split_once('[')) {
            Some((time, zone)) => (time, Some(zone)),
            None => (word, None),
        };
        let end =
            time.find(|c: char| !matches!(c, '0'..='9' | ':' | '.' | ',')).unwrap_or(time.len());
        let (time, rest) = time.split_at_checked(end)?;
        once(&mut self.clock, time_of_day(time)?)?;
        match half_day(rest) {
            Some(half) => once(&mut self.half, half)?,
            None if rest.is_empty() => {}
            None => self.offset(zone_of(rest)?)?,
        }
        match annotated {
            Some(zone) if self.offset.is_none() => {
                self.offset(zone_of(zone.strip_prefix("Etc/").unwrap_or(zone))?)
            }
            Some(_) => self.zone(),
            None => Some(()),
        }
    }

    fn name(&mut self, word: &str) -> Option<()> {
        if let Some(half) = half_day(word) {
            return self.clock.is_some().then(|| once(&mut self.half, half)).flatten();
        }
        if named(&WEEKDAYS, word).is_some() {
            return Some(());
        }
        if let (Some(month), None) = (named(&MONTHS, word), self.date) {
            return once(&mut self.month, month);
        }
        match zone_of(word) {
            Some(offset) if self.offset.is_none() => self.offset(offset),
            Some(_) => self.zone(),
            // Go appends the value of its monotonic clock.
            None if word.starts_with("m=") => self.offset.map(|_| ()),
            None => is_zone_name(word).then(|| self.zone()).flatten(),
        }
    }
}

/// Fills an empty slot. Returns `None` if it is taken.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}
