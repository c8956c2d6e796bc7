//! Who may send: every name that a path may carry, and all that is known of the platform behind it.
//!
//! Guarantee: made once at start-up and never changed, so that a request needs one look-up and no lock. The reserved
//! platform is reachable through [`Directory::sessions`] only, never by a path.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use shared::metrics::IngressMetrics;
use shared::platform::registry::Registry;
use shared::platform::{Platform, PlatformName};
use shared::queue::EnqueuePolicy;
use shared::queue::keys::{Layout, PlatformKeys};
use shared::signature::Keys;

use crate::pipeline::shield::Shield;

/// One platform, as the pipeline needs it.
pub(crate) struct Target {
    /// Its definition.
    pub(crate) platform: Arc<Platform>,
    /// What it is verified with; `None`: not configured.
    pub(crate) keys: Option<Keys>,
    /// Its Redis keys.
    pub(crate) queue: PlatformKeys,
    /// What the enqueue script decides by.
    pub(crate) policy: EnqueuePolicy,
    /// The flood shield; `None` where there is no limit.
    pub(crate) shield: Option<Shield>,
    /// Its series.
    pub(crate) metrics: IngressMetrics,
    /// Status of "accepted".
    pub(crate) ack_status: StatusCode,
    /// Status instead of 429 and 408.
    pub(crate) busy_status: Option<StatusCode>,
}

/// What holds for all platforms unless one says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// How keys are spelled.
    pub(crate) layout: Layout,
    /// `DEDUP_TTL_HOURS`.
    pub(crate) dedup_ttl: Duration,
    /// `MAX_BACKLOG`.
    pub(crate) max_backlog: u64,
}

/// All platforms by every name that a path may carry.
pub(crate) struct Directory {
    by_name: HashMap<String, Arc<Target>>,
    sessions: Arc<Target>,
    unknown: IngressMetrics,
}

impl Target {
    fn new(platform: &Arc<Platform>, keys: Option<Keys>, defaults: &Defaults) -> Self {
        let status = |code: u16| StatusCode::from_u16(code).ok();
        let limit = platform.rate_limit;
        Self {
            queue: defaults.layout.platform(&platform.name),
            policy: EnqueuePolicy::new(
                limit,
                platform.dedup_ttl.unwrap_or(defaults.dedup_ttl),
                defaults.max_backlog,
            )
            .limiting(&platform.limits),
            shield: limit.per_minute.map(|per_minute| Shield::new(per_minute, limit.burst)),
            metrics: IngressMetrics::new(&platform.name),
            ack_status: status(platform.ack_status).unwrap_or(StatusCode::ACCEPTED),
            busy_status: platform.busy_status.and_then(status),
            platform: Arc::clone(platform),
            keys,
        }
    }

    /// What log lines call it.
    pub(crate) fn known_as(&self) -> &str {
        self.platform.label.as_str()
    }

    /// Whether its operator asked for events of this type.
    pub(crate) fn subscribes(&self, event_type: &str) -> bool {
        self.platform.event_types.as_ref().is_none_or(|types| types.contains(event_type))
    }
}

impl Directory {
    /// All platforms of `registry`; those without an entry in `keys` are not configured.
    pub(crate) fn new(registry: &Registry, mut keys: HashMap<PlatformName, Keys>, defaults: &Defaults) -> Self {
        let mut by_name = HashMap::new();
        for platform in registry.iter().filter(|one| one.name.as_str() != PlatformName::SESSIONS) {
            let target = Arc::new(Target::new(platform, keys.remove(&platform.name), defaults));
            for name in platform.aliases.iter().chain([&platform.name]) {
                by_name.insert(name.as_str().to_owned(), Arc::clone(&target));
            }
        }
        let sessions = Arc::new(Target::new(registry.sessions(), None, defaults));
        Self { by_name, sessions, unknown: IngressMetrics::unknown() }
    }

    /// The platform that a path names, by its name or an alias.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Target>> {
        self.by_name.get(name)
    }

    /// The reserved platform of announced sessions.
    pub(crate) fn sessions(&self) -> &Arc<Target> {
        &self.sessions
    }

    /// The series of platforms that nobody defined.
    pub(crate) fn unknown(&self) -> &IngressMetrics {
        &self.unknown
    }

    /// Every platform that can verify, once.
    pub(crate) fn configured(&self) -> impl Iterator<Item = &Arc<Target>> {
        let by_own_name = |(name, target): &(&String, &Arc<Target>)| **name == target.platform.name.as_str();
        self.by_name.iter().filter(by_own_name).map(|(_, target)| target).filter(|target| target.keys.is_some())
    }
}
