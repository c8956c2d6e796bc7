//! Reads the pause that a busy receiver asks for.
//!
//! Sources:
//!
//! - RFC 9110 section 10.2.3 (`Retry-After`)
//! - draft-ietf-httpapi-ratelimit-headers (`RateLimit`, `RateLimit-Reset`)
//! - <https://discord.com/developers/docs/topics/rate-limits> (`X-RateLimit-Reset-After`,
//!   `retry_after`)
//! - <https://core.telegram.org/bots/api#responseparameters> (`parameters.retry_after`)
//! - services that send `X-Rate-Limit-Reset` and `Retry-After-Ms`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::PayloadFormat;
use crate::json::time::parse_text;

/// Longest pause that is respected.
pub const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// Smallest number that is a time in seconds since the epoch. Smaller ones are durations.
const EPOCH_SECONDS: f64 = 1e9;
/// Smallest number that is a time in milliseconds since the epoch.
const EPOCH_MILLIS: f64 = 1e12;
/// First version of Discord's API whose bodies use seconds.
const DISCORD_SECONDS: u32 = 8;
/// Shortest pause that a number of milliseconds may stand for.
const MIN_MILLIS: Duration = Duration::from_millis(250);

/// Pauses in a response, by the form in which receivers send them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedPause {
    /// True if `Retry-After` is present, readable or not.
    present: bool,
    /// `Retry-After`, or its variant in milliseconds.
    retry_after: Option<Duration>,
    /// `X-RateLimit-Reset-After`.
    reset_after: Option<Duration>,
    /// `RateLimit`, `RateLimit-Reset` or `X-RateLimit-Reset`.
    window: Option<Duration>,
    /// `retry_after` of a JSON body.
    body: Option<BodyPause>,
}

/// A number in a body. Its unit depends on the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BodyPause {
    /// The number, taken as seconds.
    seconds: Duration,
    /// True if Discord would mean milliseconds.
    old_discord: bool,
}

impl RequestedPause {
    /// Reads a response of `url` that arrived at `now`. Its `Date` header, if present, replaces
    /// `now`.
    pub(super) fn read(url: &Url, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        // The first value that is not zero counts.
        let first = |names: &[&str], read: &dyn Fn(&str) -> Option<Duration>| {
            let values = names.iter().flat_map(|name| headers.get_all(*name));
            let mut read = values.filter_map(|value| read(value.to_str().ok()?.trim()));
            read.find(|pause| !pause.is_zero())
        };
        let when = |text: &str| span(text, now);
        let millis = |text: &str| seconds(text).map(|number| number / 1000);
        Self {
            present: headers.contains_key(RETRY_AFTER),
            retry_after: first(&["retry-after-ms", "x-ms-retry-after-ms"], &millis)
                .or_else(|| first(&[RETRY_AFTER.as_str()], &when)),
            reset_after: first(&["x-ratelimit-reset-after"], &when),
            window: first(&["ratelimit"], &policies).or_else(|| {
                first(&["ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset"], &when)
            }),
            body: in_body(url, body, now),
        }
    }

    /// Returns true if `Retry-After` is present, readable or not.
    #[must_use]
    pub const fn has_retry_after(&self) -> bool {
        self.present
    }

    /// Pause of `Retry-After`, if it is readable.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(|pause| pause.min(MAX_PAUSE))
    }

    /// Pause of a receiver of `format`, from the most precise source. `None`: there is no pause.
    #[must_use]
    pub fn pause(&self, format: PayloadFormat) -> Option<Duration> {
        let body = self.body.map(|body| {
            let millis = body.seconds / 1000;
            let is_millis =
                format == PayloadFormat::Discord && body.old_discord && millis >= MIN_MILLIS;
            if is_millis { millis } else { body.seconds }
        });
        let all = [self.reset_after, body, self.retry_after, self.window];
        let mut named = all.into_iter().flatten().filter(|pause| !pause.is_zero());
        named.next().map(|pause| pause.min(MAX_PAUSE))
    }
}

#[cfg(test)]
impl RequestedPause {
    /// Creates a pause with this `Retry-After`.
    pub(super) fn of(retry_after: Option<Duration>) -> Self {
        let usable = retry_after.filter(|pause| !pause.is_zero());
        Self { present: retry_after.is_some(), retry_after: usable, ..Self::default() }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    if number.is_nan() {
        return None;
    }
    Some(Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX))
}

/// Parses a number of seconds, a duration with a unit, a time as a number, or a date.
///
/// Quotation marks around it are removed. A list or parameters after it are ignored.
fn span(text: &str, now: SystemTime) -> Option<Duration> {
    let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    let bare = |text: &str| {
        text.trim_matches(|c: char| c == '"' || c == '\'' || c.is_whitespace()).to_owned()
    };
    let text = bare(text);
    let date = || {
        let known = parse_text(&text).and_then(|ms| u64::try_from(ms).ok());
        let date = known.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        httpdate::parse_http_date(&text).ok().or(date).map(until)
    };
    let number =
        |text: &str| numeric(text, now).or_else(|| with_unit(text)).or_else(|| iso_span(text));
    number(&text).or_else(date).or_else(|| number(&bare(text.split([',', ';']).next()?)))
}

/// Parses a number of seconds, or a time as a number.
fn numeric(text: &str, now: SystemTime) -> Option<Duration> {
    let number = text.parse::<f64>().ok()?;
    if number < EPOCH_SECONDS {
        return seconds(text);
    }
    let number = if number < EPOCH_MILLIS { number } else { number / 1000.0 };
    if number.is_nan() {
        return None;
    }
    let at =
        Duration::try_from_secs_f64(number).ok().and_then(|since| UNIX_EPOCH.checked_add(since));
    Some(at.map_or(Duration::MAX, |at| at.duration_since(now).unwrap_or_default()))
}

/// Parses a number with a unit: `30s`, `500 ms`, `1 minute`.
fn with_unit(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "ms" | "millis" | "milliseconds" => 0.001,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Some(Duration::try_from_secs_f64((number * unit).max(0.0)).unwrap_or(Duration::MAX))
}

/// Parses an ISO 8601 duration below a day: `PT1M30S`.
fn iso_span(text: &str) -> Option<Duration> {
    let text = text.to_ascii_uppercase();
    let mut rest = text.strip_prefix("PT").filter(|rest| !rest.is_empty())?;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        sum = sum.saturating_add(with_unit(rest.get(..=at)?)?);
        rest = rest.get(at + 1..)?;
    }
    Some(sum)
}

/// Parses `RateLimit`: the longest pause of its exhausted policies, else the shortest of all.
fn policies(text: &str) -> Option<Duration> {
    let value = |policy: &str, names: &[&str]| {
        let mut pairs = policy.split([';', ',']).filter_map(|part| part.split_once('='));
        let (_, value) = pairs.find(|(name, _)| names.contains(&name.trim()))?;
        seconds(value.trim())
    };
    // Older drafts have one policy, and separate its parts with commas.
    let separator = if text.contains("reset") { '\0' } else { ',' };
    let policies = text.split(separator).filter_map(|policy| {
        let left = value(policy, &["r", "remaining"]);
        Some((left.is_some_and(|left| left.is_zero()), value(policy, &["t", "reset"])?))
    });
    let all: Vec<(bool, Duration)> = policies.collect();
    let exhausted = all.iter().filter(|(exhausted, _)| *exhausted).map(|(_, pause)| *pause).max();
    exhausted.or_else(|| all.iter().map(|(_, pause)| *pause).min())
}

fn in_body(url: &Url, body: &[u8], now: SystemTime) -> Option<BodyPause> {
    #[derive(Deserialize)]
    struct BusyBody<'b> {
        #[serde(borrow, default)]
        retry_after: Option<&'b RawValue>,
        #[serde(borrow, default)]
        parameters: Option<&'b RawValue>,
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let busy: BusyBody<'_> = serde_json::from_slice(body).ok()?;
    let inner =
        busy.parameters.and_then(|inner| serde_json::from_str::<BusyBody<'_>>(inner.get()).ok());
    let places = [busy.retry_after, inner.and_then(|inner| inner.retry_after)];
    let text = |raw: &RawValue| {
        serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
    };
    let mut texts = places.into_iter().flatten().map(text);
    texts.find_map(|text| {
        let seconds = span(&text, now).filter(|pause| !pause.is_zero())?;
        let whole = text.bytes().all(|byte| byte.is_ascii_digit());
        Some(BodyPause { seconds, old_discord: whole && is_before(url, DISCORD_SECONDS) })
    })
}

/// Returns true if the path of `url` names an API version below `version`.
fn is_before(url: &Url, version: u32) -> bool {
    let mut segments = url.path_segments().into_iter().flatten();
    segments.any(|one| {
        one.strip_prefix('v')
            .and_then(|digits| digits.parse::<u32>().ok())
            .is_some_and(|one| one < version)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    const HOOK: &str = "https://a.example/api/webhooks/1/x";

    fn asked(headers: &[(&str, &str)], body: &str, format: PayloadFormat) -> Option<f64> {
        asked_by(HOOK, headers, body, format)
    }

    fn asked_by(
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
        format: PayloadFormat,
    ) -> Option<f64> {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        let pause = RequestedPause::read(&url.parse().unwrap(), &headers, body.as_bytes(), now)
            .pause(format);
        pause.map(|pause| pause.as_secs_f64())
    }

    #[test]
    fn retry_after_is_seconds_decimals_or_a_date() {
        for (text, pause) in [
            ("120", Some(120.0)),
            (" 1.5 ", Some(1.5)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:50:07 +0000", Some(30.0)),
            ("Sun, 06 Nov 1994 09:50:07 +0100", Some(30.0)),
            ("Sun, 06 Nov 1994 08:50:07 UTC", Some(30.0)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30.0)),
            ("1994-11-06T08:50:07Z", Some(30.0)),
            ("1994-11-06T09:50:07+01:00", Some(30.0)),
            ("1994-11-06 08:50:07", Some(30.0)),
            ("30s", Some(30.0)),
            ("30 seconds", Some(30.0)),
            ("2m", Some(120.0)),
            ("1500ms", Some(1.5)),
            ("\"30\"", Some(30.0)),
            ("30, 30", Some(30.0)),
            ("30; foo", Some(30.0)),
            ("PT30S", Some(30.0)),
            ("PT1M0.5S", Some(60.5)),
            ("PT", None),
            ("", None),
            ("inf", Some(3600.0)),
            ("784111787", Some(3600.0)),
            ("99999999999999999999999", Some(3600.0)),
            ("0", None),
            ("-5", None),
            ("NaN", None),
            ("soon", None),
        ] {
            assert_eq!(
                asked(&[("Retry-After", text)], "", PayloadFormat::Standard),
                pause,
                "{text}"
            );
        }
    }

    #[test]
    fn dates_are_compared_with_the_receivers_clock() {
        let headers = [
            ("Date", "Sun, 06 Nov 1994 10:00:00 GMT"),
            ("Retry-After", "Sun, 06 Nov 1994 10:00:09 GMT"),
        ];
        assert_eq!(asked(&headers, "", PayloadFormat::Standard), Some(9.0));
    }

    #[test]
    fn rate_limit_headers_count_without_more_precise_ones() {
        for (name, value, pause) in [
            ("RateLimit-Reset", "50", 50.0),
            ("RateLimit", "limit=100, remaining=0, reset=50", 50.0),
            ("RateLimit", "\"burst\";r=0;t=2, \"daily\";r=10;t=40", 2.0),
            ("RateLimit", "\"burst\";r=5;t=2, \"daily\";r=0;t=40", 40.0),
            ("RateLimit", "\"burst\";r=5;t=2, \"daily\";r=10;t=40", 2.0),
            ("RateLimit", "\"burst\";r=0;t=2, \"daily\";r=0;t=40", 40.0),
            ("X-Rate-Limit-Reset", "1500000000", 3600.0),
            ("retry-after-ms", "1500", 1.5),
            ("X-RateLimit-Reset-After", "0.25", 0.25),
            ("X-RateLimit-Reset", "1500000000", 3600.0),
            ("X-RateLimit-Reset", "1500000000123", 3600.0),
            ("X-RateLimit-Reset", "7", 7.0),
            ("X-RateLimit-Reset-After", "5s", 5.0),
        ] {
            assert_eq!(
                asked(&[(name, value)], "", PayloadFormat::Standard),
                Some(pause),
                "{name}: {value}"
            );
        }
        let headers = [("Retry-After", "3"), ("RateLimit-Reset", "50"), ("X-RateLimit-Reset", "9")];
        assert_eq!(asked(&headers, "", PayloadFormat::Standard), Some(3.0));
    }

    #[test]
    fn first_usable_place_and_value_count() {
        let fine = [
            ("Retry-After", "soon"),
            ("Retry-After", "0"),
            ("Retry-After", "60"),
            ("Retry-After", "30"),
        ];
        assert_eq!(asked(&fine, "", PayloadFormat::Standard), Some(60.0));
        let zero =
            [("X-RateLimit-Reset-After", "0"), ("Retry-After", "0"), ("RateLimit-Reset", "50")];
        assert_eq!(asked(&zero, "{\"retry_after\": 0}", PayloadFormat::Standard), Some(50.0));
        assert_eq!(asked(&zero[..2], "{\"retry_after\": 7}", PayloadFormat::Standard), Some(7.0));
    }

    #[test]
    fn retry_after_of_a_body_is_found_as_services_write_it() {
        let long = format!("{{\"text\": \"{}\", \"retry_after\": 9}}", "x".repeat(5_000));
        for (body, pause) in [
            ("{\"retry_after\": \"2.5\"}", Some(2.5)),
            ("{\"ok\": false, \"parameters\": {\"retry_after\": 35}}", Some(35.0)),
            ("{\"parameters\": [], \"retry_after\": 3}", Some(3.0)),
            ("{\"parameters\": {\"retry_after\": 3}, \"retry_after\": null}", Some(3.0)),
            ("\u{feff}{\"retry_after\": 4}", Some(4.0)),
            (&long, Some(9.0)),
            ("{\"retry_after\": {}}", None),
            ("[]", None),
        ] {
            assert_eq!(asked(&[], body, PayloadFormat::Standard), pause, "{body}");
        }
    }

    #[test]
    fn discord_means_milliseconds_before_version_8_only() {
        let limited = |number: &str| {
            format!("{{\"message\": \"slow\", \"retry_after\": {number}, \"global\": false}}")
        };
        let old = "https://discord.com/api/v6/webhooks/1/x";
        let new = "https://discord.com/api/v10/webhooks/1/x";
        for (url, headers, number, pause) in [
            (new, &[("Retry-After", "65")][..], "64.57", 64.57),
            (new, &[("Retry-After", "5")], "5", 5.0),
            (HOOK, &[("Retry-After", "5")], "5", 5.0),
            (old, &[("Retry-After", "1337")], "1337", 1.337),
            (old, &[], "5", 5.0),
            (old, &[], "64.57", 64.57),
            (old, &[("X-RateLimit-Reset-After", "1.5")], "1337", 1.5),
        ] {
            assert_eq!(
                asked_by(url, headers, &limited(number), PayloadFormat::Discord),
                Some(pause),
                "{url} {number}"
            );
        }
        assert_eq!(asked_by(old, &[], &limited("1337"), PayloadFormat::Standard), Some(1337.0));
    }
}
