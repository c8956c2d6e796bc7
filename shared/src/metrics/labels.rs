//! The closed sets that label values come from.

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident = $($(#[$vdoc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

labels! {
    /// How a webhook request was answered; once per event for a batch.
    RequestOutcome =
    /// Queued.
    Accepted "accepted",
    /// No usable event; kept as a dead letter.
    KeptInvalid "kept_invalid",
    /// Seen before.
    Duplicate "duplicate",
    /// Type not subscribed.
    Ignored "ignored",
    /// A provider's handshake.
    Handshake "handshake",
    /// Signature missing, malformed or wrong.
    InvalidSignature "invalid_signature",
    /// Outside the tolerance.
    SignatureExpired "signature_expired",
    /// Not JSON, or schema not met; refused.
    InvalidPayload "invalid_payload",
    /// Over the limit.
    RateLimited "rate_limited",
    /// Body too large.
    TooLarge "too_large",
    /// Body not in time.
    BodyTimeout "body_timeout",
    /// Content encoding not known.
    UnsupportedEncoding "unsupported_encoding",
    /// Platform disabled.
    Disabled "disabled",
    /// Platform without a secret.
    NotConfigured "not_configured",
    /// Certainly not queued.
    QueueError "queue_error",
    /// Redis's answer was lost.
    UnknownResult "unknown_result",
    /// Backlog or replica full.
    Overloaded "overloaded",
}

labels! {
    /// How an execution of an event ended.
    EventOutcome =
    /// Took effect, or was logged.
    Processed "processed",
    /// Older than what is stored.
    Stale "stale",
    /// Will be tried again.
    Retried "retried",
    /// Given up.
    DeadLettered "dead_lettered",
    /// Had taken effect before.
    Duplicate "duplicate",
}

labels! {
    /// What an applied event did; also the ledger's `action` column.
    Action =
    /// The session's status changed.
    StatusUpdated "status_updated",
    /// The session had that status already.
    StatusUnchanged "status_unchanged",
    /// A newer event was there first.
    StaleIgnored "stale_ignored",
    /// Another table or column group changed.
    Recorded "recorded",
    /// Ledger only.
    Logged "logged",
}
