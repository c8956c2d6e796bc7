//! Defines a destination: its URL, the events that it receives, and its limits.
//!
//! # Guarantees
//!
//! - A destination is valid: its URL is http or https with a host, and its headers can be sent.
//! - `Debug` shows no secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::address::AllowPrivate;
use super::headers::SourceName;
use crate::event::Millis;
use crate::platform::{NameError, PlatformName};

/// Prefix of the names of registered platforms' destinations. No other name has it.
const REGISTERED_PREFIX: &str = "platform_";

/// Name of a destination. Has the grammar of a platform's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName {
    queue: PlatformName,
}

impl DestinationName {
    /// Checks the name.
    ///
    /// # Errors
    /// `name` does not match `^[a-z0-9][a-z0-9_-]{0,63}$`.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let wrong = |error| NameError { what: "a destination's name", ..error };
        PlatformName::new(name)
            .and_then(|name| PlatformName::queue(&format!("out:{name}")))
            .map_err(wrong)
            .map(|queue| Self { queue })
    }

    /// Name of the destination of a registered platform.
    ///
    /// # Errors
    /// The platform's name is too long.
    pub fn for_registered_platform(platform: &PlatformName) -> Result<Self, NameError> {
        Self::new(&format!("{REGISTERED_PREFIX}{platform}"))
    }

    /// Returns true for a name of [`Self::for_registered_platform`].
    #[must_use]
    pub fn is_for_registered_platform(&self) -> bool {
        self.as_str().starts_with(REGISTERED_PREFIX)
    }

    /// Name of the destination for which a queue of this name was created. Removes the digits of a
    /// fingerprint that distinguish it from other queues.
    #[must_use]
    pub fn first_owner(&self) -> &str {
        let is_print =
            |text: &str| text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = self.as_str();
        name.rsplit_once('-').filter(|(_, end)| is_print(end)).map_or(name, |(owner, _)| owner)
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.queue.destination().unwrap_or_default()
    }

    /// Name of the queue: `out:<name>`.
    #[must_use]
    pub fn queue(&self) -> &PlatformName {
        &self.queue
    }
}

impl Serialize for DestinationName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Digest that identifies a URL without its secrets: 32 hex digits of SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlFingerprint(String);

impl UrlFingerprint {
    /// Computes the fingerprint of `url`. It ignores the fragment, which is never sent.
    #[must_use]
    pub fn of(url: &Url) -> Self {
        let mut sent = url.clone();
        sent.set_fragment(None);
        let digest =
            Sha256::new_with_prefix(b"tributary destination url\0").chain_update(sent.as_str());
        Self(hex::encode(&digest.finalize()[..16]))
    }
}

impl fmt::Display for UrlFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Format of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// The standard payload, signed.
    Standard,
    /// A message for Slack's incoming webhooks.
    Slack,
    /// A message for Discord's webhooks.
    Discord,
}

impl PayloadFormat {
    /// Detects the format by the host.
    #[must_use]
    pub fn of(url: &Url) -> Self {
        let path = url.path();
        match url.host_str().unwrap_or_default() {
            "hooks.slack.com" | "hooks.slack-gov.com" => Self::Slack,
            "discord.com" | "discordapp.com" | "ptb.discord.com" | "canary.discord.com"
                if path.starts_with("/api/") && path.contains("/webhooks/") =>
            {
                Self::Discord
            }
            _ => Self::Standard,
        }
    }
}

/// Selects the events that a destination receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    /// Patterns of event types, in which `*` matches any text. `None` selects all.
    events: Option<Vec<String>>,
    /// The platform. `None` selects all.
    platform: Option<PlatformName>,
}

impl EventFilter {
    /// Creates a filter. `None` for `events` or `platform` selects all.
    #[must_use]
    pub fn new(events: Option<Vec<String>>, platform: Option<PlatformName>) -> Self {
        Self { events, platform }
    }

    /// Returns true if the filter selects an event of `platform`.
    #[must_use]
    pub fn wants(&self, platform: &PlatformName, event: &str) -> bool {
        self.platform.as_ref().is_none_or(|one| one == platform)
            && self
                .events
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, event)))
    }

    /// Returns true if the filter selects a manually triggered event, which has no platform.
    #[must_use]
    pub fn wants_manual_trigger(&self, event: &str) -> bool {
        self.platform.is_none()
            && self
                .events
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, event)))
    }

    /// The patterns. `None` selects all.
    #[must_use]
    pub(super) fn events(&self) -> Option<Vec<String>> {
        self.events.clone()
    }

    /// The patterns for display.
    #[must_use]
    pub fn patterns(&self) -> Vec<&str> {
        self.events
            .as_ref()
            .map_or_else(|| vec!["*"], |events| events.iter().map(String::as_str).collect())
    }
}

/// Matches `text` against `pattern`, in which `*` stands for any text, also an empty one.
///
/// The time is at most proportional to the product of the lengths, and both are bounded.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

/// Rate limit of a destination, shared by all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryLimit {
    /// Deliveries per window, at least 1.
    pub max: u32,
    /// The window, at least a millisecond.
    pub window: Duration,
}

/// A replaced secret that is still valid.
#[derive(Clone)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: SecretString,
    /// Expiry by Redis's clock. `None`: valid until the operator removes it.
    pub expires_at: Option<Millis>,
}

impl PreviousSecret {
    /// Creates a secret that is valid until the operator removes it.
    pub(super) fn lasting(secret: SecretString) -> Self {
        Self { secret, expires_at: None }
    }
}

/// A receiver of processed events.
#[derive(Clone)]
pub struct Destination {
    /// The name. The queue is `out:<name>`.
    pub name: DestinationName,
    /// The URL. Its path is often a secret, so only the host is shown.
    pub url: Url,
    /// The events that it receives.
    pub subscription: EventFilter,
    /// Secret that signs deliveries. `None`: they are not signed.
    pub secret: Option<SecretString>,
    /// Further secrets that sign deliveries, the newest first.
    pub previous_secrets: Vec<PreviousSecret>,
    /// Timeout of a whole attempt.
    pub timeout: Duration,
    /// Most attempts, at least 1.
    pub max_attempts: u32,
    /// Delay before the second attempt. It doubles with each further one.
    pub retry_delay: Duration,
    /// Longest delay between attempts.
    pub max_retry_delay: Duration,
    /// The operator's headers.
    pub headers: Vec<(String, SecretString)>,
    /// Rate limit.
    pub limit: DeliveryLimit,
    /// Format of the payload.
    pub format: PayloadFormat,
    /// Name of the sender.
    pub source: SourceName,
    /// Discord, on `stream.live`: mention of `everyone`, `here` or a role's id.
    pub mention: Option<String>,
    /// Discord, on `stream.live`: link to the stream. `{stream_id}` and `{room_id}` are replaced.
    pub watch_url: Option<String>,
    /// Most waiting deliveries. Further ones become dead letters.
    pub max_backlog: u64,
    /// Addresses that are allowed beside public ones.
    pub allow_private: Arc<AllowPrivate>,
    /// True if deliveries wait until an operator resumes them.
    pub paused: bool,
    /// True if this process cannot decrypt the secret. Then nothing is sent.
    pub secret_unreadable: bool,
    /// True if the destination is from `WEBHOOK_URLS`.
    pub from_url_list: bool,
}

impl Destination {
    /// Returns true if deliveries to both are equal. Both must have been made from the same
    /// defaults.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let secret =
            |one: &Self| one.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        let previous = |one: &Self| -> Vec<_> {
            let all = one.previous_secrets.iter();
            all.map(|one| (one.secret.expose_secret().to_owned(), one.expires_at)).collect()
        };
        self.name == other.name
            && self.url == other.url
            && self.secret_unreadable == other.secret_unreadable
            && secret(self) == secret(other)
            && previous(self) == previous(other)
    }

    /// Scope in which the URL identifies the destination: `*` for those of `WEBHOOK_URLS`, whose
    /// names are positions in the list. Otherwise the name.
    #[must_use]
    pub fn scope(&self) -> &str {
        if self.from_url_list { "*" } else { self.name.as_str() }
    }

    /// Secrets that sign a delivery at `now`, the newest first.
    #[must_use]
    pub fn signing_secrets(&self, now: Millis) -> Vec<&SecretString> {
        let previous = self.previous_secrets.iter();
        let valid = previous.filter(|one| one.expires_at.is_none_or(|at| at > now));
        self.secret.iter().chain(valid.map(|one| &one.secret)).collect()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("name", &self.name.as_str())
            .field("host", &self.url.host_str())
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pattern_star_stands_for_any_text() {
        for (pattern, text) in [
            ("*", "job.completed"),
            ("*", ""),
            ("job.*", "job.completed"),
            ("job.*", "job."),
            ("*.completed", "job.completed"),
            ("job.*_completed", "job.script_completed"),
            ("a*b*c", "axxbyybzc"),
            ("a**b", "ab"),
            ("job.completed", "job.completed"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("job.*", "jobs"),
            ("job.completed", "job.completed_with_issues"),
            ("*.completed", "job.completed_with_issues"),
            ("a*a", "a"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn filter_of_a_platform_matches_its_events_only() {
        let acme = PlatformName::new("acme").unwrap();
        let all_of_acme = EventFilter::new(None, Some(acme.clone()));
        assert!(all_of_acme.wants(&acme, "x"));
        assert!(!all_of_acme.wants(&PlatformName::new("mux").unwrap(), "x"));
        let jobs = EventFilter::new(Some(vec!["job.*".to_owned()]), None);
        assert!(jobs.wants(&acme, "job.done") && !jobs.wants(&acme, "stream.live"));
    }

    #[test]
    fn queue_is_named_after_its_first_owner() {
        for (queue, owner) in [
            ("webhook_2", "webhook_2"),
            ("webhook_2-0123456789ab", "webhook_2"),
            ("my-crm-0123456789abcdef", "my-crm"),
            ("my-crm", "my-crm"),
        ] {
            assert_eq!(DestinationName::new(queue).unwrap().first_owner(), owner);
        }
    }

    #[test]
    fn fingerprint_differs_where_the_receiver_may() {
        let of = |url: &str| UrlFingerprint::of(&url.parse().unwrap()).to_string();
        let hook = of("https://example.com/hook");
        assert_eq!(hook.len(), 32);
        for same in ["https://EXAMPLE.com/hook", "https://example.com:443/hook#part"] {
            assert_eq!(of(same), hook, "{same}");
        }
        for other in
            ["http://example.com/hook", "https://example.com/hook/", "https://example.com/hook?a=1"]
        {
            assert_ne!(of(other), hook, "{other}");
        }
    }

    #[test]
    fn format_follows_from_the_host() {
        for (url, format) in [
            ("https://hooks.slack.com/services/T/B/X", PayloadFormat::Slack),
            ("https://discord.com/api/webhooks/1/x", PayloadFormat::Discord),
            ("https://discord.com/api/v10/webhooks/1/x", PayloadFormat::Discord),
            ("https://discordapp.com/api/webhooks/1/x", PayloadFormat::Discord),
            ("https://discord.com.evil.example/api/webhooks/1/x", PayloadFormat::Standard),
            ("https://example.com/hooks.slack.com", PayloadFormat::Standard),
        ] {
            assert_eq!(PayloadFormat::of(&url.parse().unwrap()), format, "{url}");
        }
    }
}
