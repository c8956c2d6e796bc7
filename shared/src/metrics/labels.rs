//! Closed sets of label values.

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident = $($(#[doc = $vdoc:literal])+ $variant:ident $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $vdoc])+ $variant),+ }

        impl $name {
            /// All values, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Meaning of the value: the sentences of its doc comment.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($vdoc),+).trim_ascii_start()),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

labels! {
    /// Outcome of a webhook request. A batch counts once per event.
    RequestOutcome =
    /// The event was enqueued.
    Accepted "accepted",
    /// The event is not usable, and was kept as a dead letter.
    KeptInvalid "kept_invalid",
    /// The event is a duplicate.
    Duplicate "duplicate",
    /// The platform's definition does not list the event type.
    Ignored "ignored",
    /// The request is a provider's handshake.
    Handshake "handshake",
    /// The signature is missing, malformed or wrong.
    InvalidSignature "invalid_signature",
    /// The signature's time is outside the tolerance.
    SignatureExpired "signature_expired",
    /// The body is not JSON, or does not match the schema. It was refused.
    InvalidPayload "invalid_payload",
    /// The platform's rate limit was exceeded.
    RateLimited "rate_limited",
    /// The body is too large.
    TooLarge "too_large",
    /// The body did not arrive in time.
    BodyTimeout "body_timeout",
    /// The content encoding is not supported.
    UnsupportedEncoding "unsupported_encoding",
    /// The platform is disabled.
    Disabled "disabled",
    /// The platform has no secret.
    NotConfigured "not_configured",
    /// The event was certainly not enqueued.
    QueueError "queue_error",
    /// Redis's reply was lost, so the event may be enqueued.
    UnknownResult "unknown_result",
    /// The backlog or the replica is full.
    Overloaded "overloaded",
}

labels! {
    /// Outcome of an event's execution.
    EventOutcome =
    /// The event took effect, or was logged.
    Processed "processed",
    /// The stored state is newer than the event.
    Stale "stale",
    /// The event will be retried.
    Retried "retried",
    /// The event became a dead letter.
    DeadLettered "dead_lettered",
    /// The event had taken effect before.
    Duplicate "duplicate",
}

labels! {
    /// Action of an applied event. Also the ledger's `action` column.
    Action =
    /// The session's status changed.
    StatusUpdated "status_updated",
    /// The session already had that status.
    StatusUnchanged "status_unchanged",
    /// A newer event was applied before.
    StaleIgnored "stale_ignored",
    /// Another table or column group changed.
    Recorded "recorded",
    /// Only the ledger changed.
    Logged "logged",
}
