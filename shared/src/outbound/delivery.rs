//! What one attempt came to, and what that means.
//!
//! Guarantee: pure, so that the whole policy can be read here. An attempt is a success only with a 2xx. What the
//! destination says of this request is the delivery's fault and final; what befalls any request to it (no connection, no
//! answer in time, 5xx) is the destination's, is tried again, and opens its circuit.
//!
//! A destination that says that it is busy is left alone. After an unexpected 4xx it is tried for
//! about a minute: it may be in the middle of a deploy.

use std::time::Duration;

use super::PayloadFormat;
use super::pause::RequestedPause;
use super::redirect::Redirect;
use crate::error_code::DeadLetterCode;

/// Time without a success after which busy answers spend attempts.
pub const MAX_BUSY_TIME: Duration = Duration::from_secs(24 * 3600);
/// Pauses after unexpected 4xx answers to one delivery: less than a minute in all.
pub const UNEXPECTED_RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(15),
    Duration::from_secs(25),
];

/// Time within which [`UNEXPECTED_RETRY_DELAYS`] ends.
const UNEXPECTED_RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after the unexpected answer to try number `tries`, counted from 0, `elapsed` after the
/// first. `not_before` counts as far as all tries end within a minute. `None`: there are no more.
#[must_use]
pub fn unexpected_retry_delay(
    tries: u32,
    elapsed: Duration,
    not_before: Option<Duration>,
) -> Option<Duration> {
    let tries = usize::try_from(tries).ok()?;
    let pause = *UNEXPECTED_RETRY_DELAYS.get(tries)?;
    let later: Duration = UNEXPECTED_RETRY_DELAYS.iter().skip(tries + 1).sum();
    let room = UNEXPECTED_RETRY_TIMEOUT.saturating_sub(elapsed).saturating_sub(later);
    Some(pause.max(not_before.unwrap_or_default().min(room)))
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer.
    Answered {
        /// Its status.
        status: u16,
        /// When to ask again, as far as it says so.
        pause: RequestedPause,
        /// Target of a redirect.
        redirect: Option<Redirect>,
        /// The beginning of its body, visible characters only.
        excerpt: String,
    },
    /// No answer.
    Failed {
        /// What failed.
        kind: TransportError,
        /// For people; no URL, no secret.
        reason: String,
    },
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The name has no address.
    NotFound,
    /// Nobody listens, or the connection broke.
    Refused,
    /// Not in time.
    TimedOut,
    /// The certificate or the handshake is wrong.
    Certificate,
    /// Answer that is not HTTP/1.1.
    Protocol,
    /// Its address is not allowed.
    Blocked,
}

impl TransportError {
    /// The name that the contract's `error` field has for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "ENOTFOUND",
            Self::Refused => "ECONNREFUSED",
            Self::TimedOut => "ETIMEDOUT",
            Self::Certificate => "ECERT",
            Self::Protocol => "EPROTO",
            Self::Blocked => "EBLOCKED",
        }
    }
}

/// What an attempt means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryVerdict {
    /// Done.
    Delivered,
    /// Destination has enough for now: nothing is sent to it for a while, and no attempt is spent.
    Busy {
        /// Code of the dead letter that it may become.
        code: DeadLetterCode,
        /// Pause that it asked for.
        pause: Option<Duration>,
    },
    /// Worth another attempt. Enough of these in a row open the destination's circuit.
    Retry {
        /// Code of the dead letter that it may become.
        code: DeadLetterCode,
        /// Not before this, whatever the backoff says.
        not_before: Option<Duration>,
    },
    /// Worth the attempts of [`UNEXPECTED_RETRY_DELAYS`], which are not spent.
    Unexpected {
        /// Code of the dead letter that it may become.
        code: DeadLetterCode,
        /// Not before this, even if [`UNEXPECTED_RETRY_DELAYS`] is shorter.
        not_before: Option<Duration>,
        /// True if the other attempts are worth making, too.
        retryable: bool,
    },
    /// Never.
    Final {
        /// What the dead letter says.
        code: DeadLetterCode,
    },
    /// The destination wants no more of anything (410).
    Gone,
}

impl AttemptOutcome {
    /// Meaning for a destination of `format`.
    #[must_use]
    pub fn verdict(&self, format: PayloadFormat) -> DeliveryVerdict {
        let again = |code, not_before| DeliveryVerdict::Retry { code, not_before };
        let unexpected = |not_before, retryable| DeliveryVerdict::Unexpected {
            code: DeadLetterCode::Http4xx,
            not_before,
            retryable,
        };
        match self {
            Self::Answered { status, pause, .. } => {
                let not_before = pause.retry_after();
                match status {
                    200..=299 => DeliveryVerdict::Delivered,
                    410 => DeliveryVerdict::Gone,
                    400 | 401 | 403 | 413 | 422 => {
                        DeliveryVerdict::Final { code: DeadLetterCode::Http4xx }
                    }
                    429 => DeliveryVerdict::Busy {
                        code: DeadLetterCode::Http4xx,
                        pause: pause.pause(format),
                    },
                    // One that cannot be read says that it is busy all the same.
                    503 if pause.has_retry_after() => DeliveryVerdict::Busy {
                        code: DeadLetterCode::Http5xx,
                        pause: pause.pause(format),
                    },
                    500..=599 => again(DeadLetterCode::Http5xx, not_before),
                    408 | 425 => unexpected(not_before, true),
                    400..=499 => unexpected(not_before, false),
                    // Temporary redirects are how some proxies answer during a deploy.
                    302 | 303 | 307 => unexpected(None, false),
                    _ => DeliveryVerdict::Final { code: DeadLetterCode::Http4xx },
                }
            }
            Self::Failed { kind, .. } => match kind {
                TransportError::TimedOut => again(DeadLetterCode::Timeout, None),
                TransportError::NotFound
                | TransportError::Refused
                | TransportError::Certificate
                | TransportError::Protocol => again(DeadLetterCode::Unreachable, None),
                TransportError::Blocked => {
                    DeliveryVerdict::Final { code: DeadLetterCode::BlockedAddress }
                }
            },
        }
    }

    /// Target of a redirect.
    #[must_use]
    pub fn redirect(&self) -> Option<&Redirect> {
        match self {
            Self::Answered { redirect, .. } => redirect.as_ref(),
            Self::Failed { .. } => None,
        }
    }

    /// The same without what the destination said: it may repeat what it was sent, and that is for no log.
    #[must_use]
    pub fn log_reason(&self) -> String {
        match self {
            Self::Answered { status, redirect: Some(redirect), .. } => {
                format!("status {status} (redirect to {})", redirect.host)
            }
            Self::Answered { status, .. } => format!("status {status}"),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }

    /// Why it was no success, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Answered { status, redirect: Some(redirect), .. } => {
                format!(
                    "status {status}: redirect to {}; redirects are not followed",
                    redirect.target
                )
            }
            Self::Answered { status, excerpt, .. } if excerpt.is_empty() => {
                format!("status {status}")
            }
            Self::Answered { status, excerpt, .. } => format!("status {status}: {excerpt}"),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn answered(status: u16, retry_after: Option<u64>) -> AttemptOutcome {
        let retry_after = retry_after.map(Duration::from_secs);
        let pause = RequestedPause::of(retry_after);
        AttemptOutcome::Answered { status, pause, redirect: None, excerpt: String::new() }
    }

    fn verdict(status: u16, retry_after: Option<u64>) -> DeliveryVerdict {
        answered(status, retry_after).verdict(PayloadFormat::Standard)
    }

    fn told(status: u16, name: &'static str, value: &'static str) -> DeliveryVerdict {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        let headers = [(name, value)].into_iter().collect();
        let url = "https://a.example/".parse().unwrap();
        let pause = RequestedPause::read(&url, &headers, b"", SystemTime::UNIX_EPOCH);
        AttemptOutcome::Answered { status, pause, redirect: None, excerpt: String::new() }
            .verdict(PayloadFormat::Standard)
    }

    #[test]
    fn status_2xx_alone_is_a_success() {
        for status in 100..=599 {
            assert_eq!(
                verdict(status, None) == DeliveryVerdict::Delivered,
                (200..300).contains(&status),
                "{status}"
            );
        }
    }

    #[test]
    fn status_that_blames_the_request_is_final() {
        for status in [300, 301, 308, 400, 401, 403, 413, 422] {
            let expected = DeliveryVerdict::Final { code: DeadLetterCode::Http4xx };
            assert_eq!(verdict(status, Some(9)), expected, "{status}");
        }
        assert_eq!(verdict(410, None), DeliveryVerdict::Gone);
    }

    #[test]
    fn unexpected_4xx_is_tried_for_less_than_a_minute() {
        assert!(UNEXPECTED_RETRY_DELAYS.iter().sum::<Duration>() < Duration::from_secs(60));
        for status in [302, 307, 402, 404, 405, 406, 409, 415, 421, 423, 428, 431, 451, 499] {
            let expected = DeliveryVerdict::Unexpected {
                code: DeadLetterCode::Http4xx,
                not_before: None,
                retryable: false,
            };
            assert_eq!(verdict(status, None), expected, "{status}");
        }
        let not_before = Some(Duration::from_secs(9));
        for status in [408, 425] {
            let expected = DeliveryVerdict::Unexpected {
                code: DeadLetterCode::Http4xx,
                not_before,
                retryable: true,
            };
            assert_eq!(verdict(status, Some(9)), expected, "{status}");
        }
    }

    #[test]
    fn unexpected_retries_end_within_a_minute() {
        let (none, hour) = (None, Some(Duration::from_secs(3600)));
        let second = Duration::from_secs(1);
        assert_eq!(unexpected_retry_delay(0, Duration::ZERO, none), Some(second));
        assert_eq!(unexpected_retry_delay(0, Duration::ZERO, Some(second * 3)), Some(second * 3));
        let mut elapsed = Duration::ZERO;
        for tries in 0..5 {
            elapsed += unexpected_retry_delay(tries, elapsed, hour).unwrap_or_default();
        }
        assert_eq!((elapsed, unexpected_retry_delay(5, elapsed, hour)), (second * 60, None));
        // Held up by a pause of its destination, it keeps to the plan.
        assert_eq!(unexpected_retry_delay(1, second * 900, hour), Some(UNEXPECTED_RETRY_DELAYS[1]));
    }

    #[test]
    fn busy_answer_is_429_or_503_with_retry_after() {
        let (short, hour) = (Some(Duration::from_secs(7)), Some(Duration::from_secs(3600)));
        for (status, asked, pause) in
            [(429, None, None), (429, Some(7), short), (429, Some(90_000), hour)]
        {
            let expected = DeliveryVerdict::Busy { code: DeadLetterCode::Http4xx, pause };
            assert_eq!(verdict(status, asked), expected, "{status}");
        }
        for (asked, pause) in [(7, short), (0, None)] {
            let expected = DeliveryVerdict::Busy { code: DeadLetterCode::Http5xx, pause };
            assert_eq!(verdict(503, Some(asked)), expected);
        }
        for (asked, pause) in [("", None), ("soon", None), ("0", None), ("30s", Some(30))] {
            let expected = DeliveryVerdict::Busy {
                code: DeadLetterCode::Http5xx,
                pause: pause.map(Duration::from_secs),
            };
            assert_eq!(told(503, "retry-after", asked), expected, "{asked}");
        }
        // A window that ends some time later says nothing of a failure.
        for (status, code) in [(500, DeadLetterCode::Http5xx), (503, DeadLetterCode::Http5xx)] {
            let expected = DeliveryVerdict::Retry { code, not_before: None };
            assert_eq!(told(status, "ratelimit-reset", "3000"), expected);
        }
    }

    #[test]
    fn status_5xx_is_retried() {
        for status in [500, 502, 503, 504] {
            let code = DeadLetterCode::Http5xx;
            let expected = DeliveryVerdict::Retry { code, not_before: None };
            assert_eq!(verdict(status, None), expected, "{status}");
        }
        let code = DeadLetterCode::Http5xx;
        let not_before = Some(Duration::from_secs(3600));
        assert_eq!(verdict(500, Some(90_000)), DeliveryVerdict::Retry { code, not_before });
    }

    #[test]
    fn redirect_target_is_named_and_only_its_host_in_logs() {
        let redirect =
            Redirect { target: "https://b.example/x".to_owned(), host: "b.example".to_owned() };
        let attempt = AttemptOutcome::Answered {
            status: 302,
            pause: RequestedPause::default(),
            redirect: Some(redirect),
            excerpt: "moved".to_owned(),
        };
        let reason = "status 302: redirect to https://b.example/x; redirects are not followed";
        assert_eq!(
            (attempt.reason().as_str(), attempt.log_reason().as_str()),
            (reason, "status 302 (redirect to b.example)")
        );
    }

    #[test]
    fn blocked_address_is_final_and_unreachable_one_is_not() {
        let failed = |kind| {
            AttemptOutcome::Failed { kind, reason: String::new() }.verdict(PayloadFormat::Standard)
        };
        assert_eq!(
            failed(TransportError::Blocked),
            DeliveryVerdict::Final { code: DeadLetterCode::BlockedAddress }
        );
        for (kind, code) in [
            (TransportError::TimedOut, DeadLetterCode::Timeout),
            (TransportError::Refused, DeadLetterCode::Unreachable),
            (TransportError::NotFound, DeadLetterCode::Unreachable),
            (TransportError::Certificate, DeadLetterCode::Unreachable),
            (TransportError::Protocol, DeadLetterCode::Unreachable),
        ] {
            assert_eq!(failed(kind), DeliveryVerdict::Retry { code, not_before: None });
        }
    }
}
