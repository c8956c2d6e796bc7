//! Pause that a busy receiver asks for.
//!
//! Sources: RFC 9110 section 10.2.3 (`Retry-After`), draft-ietf-httpapi-ratelimit-headers
//! (`RateLimit`, `RateLimit-Reset`), and <https://discord.com/developers/docs/topics/rate-limits>
//! (`X-RateLimit-Reset-After`, `retry_after`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Format;

/// The longest pause that is obeyed.
pub const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// Numbers from here on are a time in seconds since the epoch, and no span.
const EPOCH_SECONDS: f64 = 1e9;
/// Numbers from here on are a time in milliseconds since the epoch.
const EPOCH_MILLIS: f64 = 1e12;

/// Pauses that an answer names, in the forms that receivers have for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedPause {
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// `X-RateLimit-Reset-After`.
    pub reset_after: Option<Duration>,
    /// `RateLimit`, `RateLimit-Reset` or `X-RateLimit-Reset`.
    pub window: Option<Duration>,
    /// `retry_after` of a JSON body.
    pub body: Option<BodyPause>,
}

/// Number in a body; the unit depends on who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPause {
    /// The number as seconds.
    seconds: Duration,
    /// True if it has no decimals.
    whole: bool,
}

impl AskedPause {
    /// Reads an answer that arrived at `now`. Times are compared with the answer's own `Date`.
    pub(super) fn read(headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        let when = |text: &str| span(text, now);
        Self {
            retry_after: text(RETRY_AFTER.as_str()).and_then(when),
            reset_after: text("x-ratelimit-reset-after").and_then(seconds),
            window: text("ratelimit")
                .and_then(policy)
                .or_else(|| text("ratelimit-reset").and_then(when))
                .or_else(|| text("x-ratelimit-reset").and_then(when)),
            body: in_body(body),
        }
    }

    /// Pause of a receiver of `format`, the most precise first; `None`: it names none.
    #[must_use]
    pub fn pause(&self, format: Format) -> Option<Duration> {
        let body = self.body.map(|body| match format {
            // Before version 8 of its interface, Discord writes whole milliseconds.
            Format::Discord if body.whole => body.seconds / 1000,
            _ => body.seconds,
        });
        let all = [self.reset_after, body, self.retry_after, self.window];
        all.into_iter().flatten().next().filter(|pause| !pause.is_zero()).map(|pause| pause.min(MAX_PAUSE))
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    if number.is_nan() {
        return None;
    }
    Some(Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX))
}

/// A number of seconds, a number that is a time, or a date.
fn span(text: &str, now: SystemTime) -> Option<Duration> {
    let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    let Ok(number) = text.parse::<f64>() else {
        return httpdate::parse_http_date(text).ok().map(until);
    };
    if number < EPOCH_SECONDS {
        return seconds(text);
    }
    let number = if number < EPOCH_MILLIS { number } else { number / 1000.0 };
    if number.is_nan() {
        return None;
    }
    let at = Duration::try_from_secs_f64(number).ok().and_then(|since| UNIX_EPOCH.checked_add(since));
    Some(at.map_or(Duration::MAX, until))
}

/// The longest `t=` (or `reset=`, in older drafts) of a `RateLimit` header.
fn policy(text: &str) -> Option<Duration> {
    let parameters = text.split([',', ';']).filter_map(|part| part.split_once('='));
    let resets = parameters.filter(|(name, _)| matches!(name.trim(), "t" | "reset"));
    resets.filter_map(|(_, value)| seconds(value.trim())).max()
}

fn in_body(body: &[u8]) -> Option<BodyPause> {
    #[derive(Deserialize)]
    struct Busy<'b> {
        #[serde(borrow)]
        retry_after: &'b RawValue,
    }
    let Busy { retry_after } = serde_json::from_slice(body).ok()?;
    let text = retry_after.get();
    Some(BodyPause { seconds: seconds(text)?, whole: text.bytes().all(|byte| byte.is_ascii_digit()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn asked(headers: &[(&str, &str)], body: &str, format: Format) -> Option<f64> {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let pause = AskedPause::read(&headers, body.as_bytes(), now).pause(format);
        pause.map(|pause| pause.as_secs_f64())
    }

    #[test]
    fn retry_after_is_seconds_decimals_or_a_date() {
        for (text, pause) in [
            ("120", Some(120.0)),
            (" 1.5 ", Some(1.5)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("784111787", Some(3600.0)),
            ("99999999999999999999999", Some(3600.0)),
            ("0", None),
            ("-5", None),
            ("NaN", None),
            ("soon", None),
        ] {
            assert_eq!(asked(&[("Retry-After", text)], "", Format::Standard), pause, "{text}");
        }
    }

    #[test]
    fn dates_are_compared_with_the_receivers_clock() {
        let headers = [("Date", "Sun, 06 Nov 1994 10:00:00 GMT"), ("Retry-After", "Sun, 06 Nov 1994 10:00:09 GMT")];
        assert_eq!(asked(&headers, "", Format::Standard), Some(9.0));
    }

    #[test]
    fn rate_limit_headers_count_where_nothing_better_does() {
        for (name, value, pause) in [
            ("RateLimit-Reset", "50", 50.0),
            ("RateLimit", "limit=100, remaining=0, reset=50", 50.0),
            ("RateLimit", "\"burst\";r=0;t=2, \"daily\";r=10;t=40", 40.0),
            ("X-RateLimit-Reset-After", "0.25", 0.25),
            ("X-RateLimit-Reset", "1500000000", 3600.0),
            ("X-RateLimit-Reset", "1500000000123", 3600.0),
            ("X-RateLimit-Reset", "7", 7.0),
        ] {
            assert_eq!(asked(&[(name, value)], "", Format::Standard), Some(pause), "{name}: {value}");
        }
        let headers = [("Retry-After", "3"), ("RateLimit-Reset", "50"), ("X-RateLimit-Reset", "9")];
        assert_eq!(asked(&headers, "", Format::Standard), Some(3.0));
    }

    #[test]
    fn discord_means_milliseconds_where_it_writes_whole_numbers() {
        let limited =
            |number: &str| format!("{{\"message\": \"slow\", \"retry_after\": {number}, \"global\": false}}");
        for (headers, number, pause) in [
            (&[("Retry-After", "65")][..], "64.57", 64.57),
            (&[("Retry-After", "1337")], "1337", 1.337),
            (&[("Retry-After", "1337"), ("X-RateLimit-Reset-After", "1.5")], "1337", 1.5),
        ] {
            assert_eq!(asked(headers, &limited(number), Format::Discord), Some(pause), "{number}");
        }
        assert_eq!(asked(&[], &limited("30"), Format::Standard), Some(30.0));
    }
}
