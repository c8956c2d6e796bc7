//! What one attempt came to, and what that means.
//!
//! Guarantee: pure, so that the whole policy can be read here. An attempt is a success only with a 2xx. What the
//! destination says of this request is the delivery's fault and final; what befalls any request to it (no connection, no
//! answer in time, 5xx) is the destination's, is tried again, and opens its circuit.

use std::time::Duration;

use crate::error_code::DeadLetterCode;

/// The longest pause that a destination may ask for by `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer.
    Answered {
        /// Its status.
        status: u16,
        /// `Retry-After`, as a span from now.
        retry_after: Option<Duration>,
        /// The beginning of its body, without control characters.
        excerpt: String,
    },
    /// No answer.
    Failed {
        /// What failed.
        kind: NoAnswer,
        /// For people; no URL, no secret.
        reason: String,
    },
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The name has no address.
    NotFound,
    /// Nobody listens, or the connection broke.
    Refused,
    /// Not in time.
    TimedOut,
    /// The certificate or the handshake is wrong.
    Certificate,
    /// Its address is not allowed.
    Blocked,
}

impl NoAnswer {
    /// The name that the contract's `error` field has for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "ENOTFOUND",
            Self::Refused => "ECONNREFUSED",
            Self::TimedOut => "ETIMEDOUT",
            Self::Certificate => "ECERT",
            Self::Blocked => "EBLOCKED",
        }
    }
}

/// What an attempt means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Done.
    Delivered,
    /// Worth another attempt.
    Again {
        /// What the dead letter would say.
        code: DeadLetterCode,
        /// Not before this, whatever the backoff says.
        not_before: Option<Duration>,
        /// Whether it counts against the destination: enough of these in a row open its circuit.
        destinations_fault: bool,
    },
    /// Never.
    Never {
        /// What the dead letter says.
        code: DeadLetterCode,
    },
    /// The destination wants no more of anything (410).
    Gone,
}

impl Attempt {
    /// What it means.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        let again = |code, not_before: &Option<Duration>, destinations_fault| Meaning::Again {
            code,
            not_before: not_before.map(|span| span.min(MAX_RETRY_AFTER)),
            destinations_fault,
        };
        match self {
            Self::Answered { status, retry_after, .. } => match status {
                200..=299 => Meaning::Delivered,
                410 => Meaning::Gone,
                // It answers, and may say when: waiting is enough.
                408 | 425 | 429 => again(DeadLetterCode::Http4xx, retry_after, false),
                500..=599 => again(DeadLetterCode::Http5xx, retry_after, true),
                _ => Meaning::Never { code: DeadLetterCode::Http4xx },
            },
            Self::Failed { kind, .. } => match kind {
                NoAnswer::TimedOut => again(DeadLetterCode::Timeout, &None, true),
                NoAnswer::NotFound | NoAnswer::Refused | NoAnswer::Certificate => {
                    again(DeadLetterCode::Unreachable, &None, true)
                }
                NoAnswer::Blocked => Meaning::Never { code: DeadLetterCode::BlockedAddress },
            },
        }
    }

    /// The same without what the destination said: it may repeat what it was sent, and that is for no log.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Answered { status, .. } => format!("status {status}"),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }

    /// Why it was no success, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Answered { status, excerpt, .. } if excerpt.is_empty() => format!("status {status}"),
            Self::Answered { status, excerpt, .. } => format!("status {status}: {excerpt}"),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Attempt {
        Attempt::Answered { status, retry_after: Some(Duration::from_secs(90_000)), excerpt: String::new() }
    }

    #[test]
    fn only_2xx_is_a_success() {
        for status in 100..=599 {
            assert_eq!(answered(status).meaning() == Meaning::Delivered, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn what_is_this_requests_fault_is_final() {
        for status in [301, 302, 307, 400, 401, 403, 404, 413, 422] {
            assert_eq!(answered(status).meaning(), Meaning::Never { code: DeadLetterCode::Http4xx }, "{status}");
        }
        assert_eq!(answered(410).meaning(), Meaning::Gone);
    }

    #[test]
    fn what_passes_is_tried_again_and_retry_after_has_a_bound() {
        let not_before = Some(MAX_RETRY_AFTER);
        for (status, code, destinations_fault) in [
            (408, DeadLetterCode::Http4xx, false),
            (429, DeadLetterCode::Http4xx, false),
            (500, DeadLetterCode::Http5xx, true),
            (503, DeadLetterCode::Http5xx, true),
        ] {
            let expected = Meaning::Again { code, not_before, destinations_fault };
            assert_eq!(answered(status).meaning(), expected, "{status}");
        }
    }

    #[test]
    fn a_blocked_address_is_final_and_an_unreachable_one_is_not() {
        let failed = |kind| Attempt::Failed { kind, reason: String::new() }.meaning();
        assert_eq!(failed(NoAnswer::Blocked), Meaning::Never { code: DeadLetterCode::BlockedAddress });
        for (kind, code) in [
            (NoAnswer::TimedOut, DeadLetterCode::Timeout),
            (NoAnswer::Refused, DeadLetterCode::Unreachable),
            (NoAnswer::NotFound, DeadLetterCode::Unreachable),
            (NoAnswer::Certificate, DeadLetterCode::Unreachable),
        ] {
            assert_eq!(failed(kind), Meaning::Again { code, not_before: None, destinations_fault: true });
        }
    }
}
