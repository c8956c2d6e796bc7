//! Headings that environment variables are documented under.

/// Heading of a group of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Addresses and access.
    Listening,
    /// Redis.
    Redis,
    /// Session database.
    Database,
    /// Platforms and their secrets.
    Platforms,
    /// Bounds of requests and queues.
    Limits,
    /// Connections of senders.
    Connections,
    /// Deduplication.
    Deduplication,
    /// Attempts, retries and claims.
    Processing,
    /// Age at which data is removed.
    Retention,
    /// Deliveries of processed events.
    Destinations,
    /// Traces.
    Traces,
    /// Logs, shutdown, certificates.
    General,
}

impl Topic {
    /// All topics, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Listening,
        Self::Redis,
        Self::Database,
        Self::Platforms,
        Self::Limits,
        Self::Connections,
        Self::Deduplication,
        Self::Processing,
        Self::Retention,
        Self::Destinations,
        Self::Traces,
        Self::General,
    ];

    /// Heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Listening => "Addresses and access",
            Self::Redis => "Redis",
            Self::Database => "Session database",
            Self::Platforms => "Platforms",
            Self::Limits => "Limits",
            Self::Connections => "Connections",
            Self::Deduplication => "Deduplication",
            Self::Processing => "Processing",
            Self::Retention => "Retention",
            Self::Destinations => "Destinations",
            Self::Traces => "Traces",
            Self::General => "Logs, shutdown and certificates",
        }
    }

    /// Sentences that stand in front of the variables in the documentation, or nothing.
    #[must_use]
    pub const fn introduction(self) -> &'static str {
        match self {
            Self::Destinations => {
                "Ingress and workers read these variables. Set them alike. A `[destinations]` \
                 table in `PLATFORMS_FILE` overrides them for one destination."
            }
            Self::Traces => {
                "Traces are off until an endpoint is set. The variables are those of OpenTelemetry."
            }
            _ => "",
        }
    }
}
