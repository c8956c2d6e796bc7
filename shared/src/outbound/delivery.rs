//! Classifies the outcome of a delivery attempt.
//!
//! # Guarantees
//!
//! - Only a 2xx status is a success (`status_2xx_alone_is_a_success`).
//! - A status that blames the request is final (`status_that_blames_the_request_is_final`).
//! - A failure of the destination is retried, and opens its circuit: no connection, no response in
//!   time, or 5xx (`status_5xx_is_retried`).
//! - A busy destination receives nothing for a while, and no attempt is spent
//!   (`busy_answer_is_429_or_503_with_retry_after`).
//! - Any other 4xx is retried for less than a minute, since a deploy may cause it
//!   (`unexpected_4xx_is_tried_for_less_than_a_minute`).

use std::time::Duration;

use super::PayloadFormat;
use super::pause::RequestedPause;
use super::redirect::Redirect;
use crate::error_code::DeadLetterCode;

/// Time without a success after which busy responses spend attempts.
pub const MAX_BUSY_TIME: Duration = Duration::from_secs(24 * 3600);
/// Delays between retries after unexpected 4xx responses: less than a minute in total.
pub const UNEXPECTED_RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(15),
    Duration::from_secs(25),
];

/// Time in which all retries of [`UNEXPECTED_RETRY_DELAYS`] end.
const UNEXPECTED_RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Delay after the unexpected response to try number `tries`, from 0.
///
/// `elapsed` is the time since the first try. `not_before` counts as far as all retries still end
/// within a minute. `None`: no retry is left.
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

/// Outcome of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The receiver responded.
    Answered {
        /// Status of the response.
        status: u16,
        /// Pause that the response asks for.
        pause: RequestedPause,
        /// Target, if the response is a redirect.
        redirect: Option<Redirect>,
        /// Beginning of the body, with visible characters only.
        excerpt: String,
    },
    /// No response was received.
    Failed {
        /// Kind of failure.
        kind: TransportError,
        /// Description for operators, without URL and secrets.
        reason: String,
    },
}

/// Reason for which no response was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The host name has no address.
    NotFound,
    /// The port is closed, or the connection broke.
    Refused,
    /// The attempt timed out.
    TimedOut,
    /// The certificate or the TLS handshake is invalid.
    Certificate,
    /// The response is not HTTP/1.1.
    Protocol,
    /// The address is not allowed.
    Blocked,
}

impl TransportError {
    /// Error code in API responses.
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

/// Consequence of an attempt for its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryVerdict {
    /// The delivery succeeded.
    Delivered,
    /// The destination is busy. It receives nothing for a while, and no attempt is spent.
    Busy {
        /// Error code if the delivery becomes a dead letter.
        code: DeadLetterCode,
        /// Pause that the destination asked for.
        pause: Option<Duration>,
    },
    /// The delivery is retried. Repeated failures open the destination's circuit.
    Retry {
        /// Error code if the delivery becomes a dead letter.
        code: DeadLetterCode,
        /// Least delay of the retry, if it is longer than the backoff.
        not_before: Option<Duration>,
    },
    /// The delivery is retried by [`UNEXPECTED_RETRY_DELAYS`], which spends no attempts.
    Unexpected {
        /// Error code if the delivery becomes a dead letter.
        code: DeadLetterCode,
        /// Least delay of the retry, if it is longer than that of [`UNEXPECTED_RETRY_DELAYS`].
        not_before: Option<Duration>,
        /// True if regular attempts follow after these retries.
        retryable: bool,
    },
    /// The delivery becomes a dead letter.
    Final {
        /// Error code of the dead letter.
        code: DeadLetterCode,
    },
    /// The destination wants no further deliveries (410).
    Gone,
}

impl AttemptOutcome {
    /// Classifies the outcome for a destination of `format`.
    #[must_use]
    pub fn verdict(&self, format: PayloadFormat) -> DeliveryVerdict {
        let retry = |code, not_before| DeliveryVerdict::Retry { code, not_before };
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
                    // An unreadable `Retry-After` still means that the destination is busy.
                    503 if pause.has_retry_after() => DeliveryVerdict::Busy {
                        code: DeadLetterCode::Http5xx,
                        pause: pause.pause(format),
                    },
                    500..=599 => retry(DeadLetterCode::Http5xx, not_before),
                    408 | 425 => unexpected(not_before, true),
                    400..=499 => unexpected(not_before, false),
                    // Some proxies send temporary redirects during a deploy.
                    302 | 303 | 307 => unexpected(None, false),
                    _ => DeliveryVerdict::Final { code: DeadLetterCode::Http4xx },
                }
            }
            Self::Failed { kind, .. } => match kind {
                TransportError::TimedOut => retry(DeadLetterCode::Timeout, None),
                TransportError::NotFound
                | TransportError::Refused
                | TransportError::Certificate
                | TransportError::Protocol => retry(DeadLetterCode::Unreachable, None),
                TransportError::Blocked => {
                    DeliveryVerdict::Final { code: DeadLetterCode::BlockedAddress }
                }
            },
        }
    }

    /// Target, if the response is a redirect.
    #[must_use]
    pub fn redirect(&self) -> Option<&Redirect> {
        match self {
            Self::Answered { redirect, .. } => redirect.as_ref(),
            Self::Failed { .. } => None,
        }
    }

    /// Reason of a failure for logs. It omits the response's text, which may repeat the request.
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

    /// Reason of a failure for operators.
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

    fn verdict_with_header(
        status: u16,
        name: &'static str,
        value: &'static str,
    ) -> DeliveryVerdict {
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
        // A pause of the destination delayed this try, which does not change the plan.
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
            assert_eq!(verdict_with_header(503, "retry-after", asked), expected, "{asked}");
        }
        // The end of a rate limit window does not make another failure a busy response.
        for (status, code) in [(500, DeadLetterCode::Http5xx), (503, DeadLetterCode::Http5xx)] {
            let expected = DeliveryVerdict::Retry { code, not_before: None };
            assert_eq!(verdict_with_header(status, "ratelimit-reset", "3000"), expected);
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
