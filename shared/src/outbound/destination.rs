//! A destination: where processed events go, which of them, and on what terms.
//!
//! Guarantee: one of these can be used without looking back: its URL is http or https and has a host, its headers can be
//! sent, and nothing secret shows when it is printed.

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
use crate::platform::{PlatformName, UnknownName};

/// What the names of registered platforms' destinations begin with, and no other's.
const REGISTERED_PREFIX: &str = "platform_";

/// A destination's name: the grammar of a platform's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName {
    queue: PlatformName,
}

impl DestinationName {
    /// Checks the grammar.
    ///
    /// # Errors
    /// When `name` does not match `^[a-z0-9][a-z0-9_-]{0,63}$`.
    pub fn new(name: &str) -> Result<Self, UnknownName> {
        let wrong = |error| UnknownName { what: "a destination's name", ..error };
        PlatformName::new(name)
            .and_then(|name| PlatformName::queue(&format!("out:{name}")))
            .map_err(wrong)
            .map(|queue| Self { queue })
    }

    /// That of the destination which `platform` was registered with.
    ///
    /// # Errors
    /// When the platform's name leaves no room for it.
    pub fn for_registered_platform(platform: &PlatformName) -> Result<Self, UnknownName> {
        Self::new(&format!("{REGISTERED_PREFIX}{platform}"))
    }

    /// Whether it is one that [`Self::for_registered_platform`] gives.
    #[must_use]
    pub fn is_for_registered_platform(&self) -> bool {
        self.as_str().starts_with(REGISTERED_PREFIX)
    }

    /// Name of the destination that a queue of this name was made for: without the digits of a
    /// fingerprint that tell it from another queue.
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

    /// What its queue is called: `out:<name>`.
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

/// Digest of a URL: tells URLs apart without their secrets (32 hex digits of SHA-256).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlFingerprint(String);

impl UrlFingerprint {
    /// Fingerprint of `url`. A fragment is no part of it, since it is never sent.
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

/// What a destination is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// The standard payload, signed.
    Standard,
    /// A message for people, by Slack's incoming webhooks.
    Slack,
    /// A message for people, by Discord's webhooks.
    Discord,
}

impl PayloadFormat {
    /// What the services' own hosts understand.
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

/// Which events a destination gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    /// Patterns; `*` stands for any text. None: all.
    events: Option<Vec<String>>,
    /// Only of this platform.
    platform: Option<PlatformName>,
}

impl EventFilter {
    /// Everything that `events` (none: all) match, of `platform` (none: of all).
    #[must_use]
    pub fn new(events: Option<Vec<String>>, platform: Option<PlatformName>) -> Self {
        Self { events, platform }
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn wants(&self, platform: &PlatformName, event: &str) -> bool {
        self.platform.as_ref().is_none_or(|one| one == platform)
            && self
                .events
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, event)))
    }

    /// Whether an event that somebody triggers by hand, and that is of no platform, is wanted.
    #[must_use]
    pub fn wants_manual_trigger(&self, event: &str) -> bool {
        self.platform.is_none()
            && self
                .events
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, event)))
    }

    /// The patterns; none: all.
    #[must_use]
    pub(super) fn events(&self) -> Option<Vec<String>> {
        self.events.clone()
    }

    /// The patterns, for showing.
    #[must_use]
    pub fn patterns(&self) -> Vec<&str> {
        self.events
            .as_ref()
            .map_or_else(|| vec!["*"], |events| events.iter().map(String::as_str).collect())
    }
}

/// `*` stands for any text, also for none; everything else for itself. Takes time linear in the product of the lengths
/// at worst, both of which are bounded.
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

/// How fast a destination may be sent to, across all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryLimit {
    /// Deliveries per window, at least 1.
    pub max: u32,
    /// The window, at least a millisecond.
    pub window: Duration,
}

/// Secret that was replaced and is still valid.
#[derive(Clone)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: SecretString,
    /// When it ends, by Redis's clock; `None`: when the operator removes it.
    pub expires_at: Option<Millis>,
}

impl PreviousSecret {
    /// One that is valid until the operator removes it.
    pub(super) fn lasting(secret: SecretString) -> Self {
        Self { secret, expires_at: None }
    }
}

/// Where processed events go, and on what terms.
#[derive(Clone)]
pub struct Destination {
    /// Its name; `out:<name>` in queues.
    pub name: DestinationName,
    /// Where to. Its path is often a secret: only the host is ever shown.
    pub url: Url,
    /// Which events.
    pub subscription: EventFilter,
    /// What deliveries are signed with; none: they are not.
    pub secret: Option<SecretString>,
    /// Secrets that deliveries are signed with beside it, the newest first.
    pub previous_secrets: Vec<PreviousSecret>,
    /// Of a whole attempt.
    pub timeout: Duration,
    /// Executions in all, at least 1.
    pub max_attempts: u32,
    /// Before the second attempt; doubles with each.
    pub retry_delay: Duration,
    /// The longest pause.
    pub max_retry_delay: Duration,
    /// The operator's headers.
    pub headers: Vec<(String, SecretString)>,
    /// How fast.
    pub limit: DeliveryLimit,
    /// What is sent.
    pub format: PayloadFormat,
    /// Who sends.
    pub source: SourceName,
    /// Discord on `stream.live`: whom to mention (`everyone`, `here`, or a role's id).
    pub mention: Option<String>,
    /// Discord on `stream.live`: where to watch; `{stream_id}` and `{room_id}` are replaced.
    pub watch_url: Option<String>,
    /// Deliveries that may wait; beyond it they go to its dead letters.
    pub max_backlog: u64,
    /// Addresses beside public ones.
    pub allow_private: Arc<AllowPrivate>,
    /// Held from the start.
    pub paused: bool,
    /// Its secret cannot be opened by this process: nothing is sent.
    pub secret_unreadable: bool,
    /// True if it is one of `WEBHOOK_URLS`.
    pub from_url_list: bool,
}

impl Destination {
    /// Whether deliveries to both are made in the same way. For destinations made from the same defaults.
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

    /// Scope in which its URL identifies it: `*` for the destinations of `WEBHOOK_URLS`, whose names
    /// are mere positions, else its name.
    #[must_use]
    pub fn scope(&self) -> &str {
        if self.from_url_list { "*" } else { self.name.as_str() }
    }

    /// Secrets that a delivery is signed with at `now`, the newest first.
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
