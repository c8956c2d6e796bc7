//! Who may send: every name that a path may carry, and all that is known of the platform behind it.
//!
//! Guarantee: a directory never changes; [`LiveTargets`] puts another in its place, so that a request needs one load and one
//! look-up and no lock. The reserved platform is reachable through [`LiveTargets::sessions`] only, never by a path.

mod live;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use shared::metrics::IngressMetrics;
use shared::platform::registry::Registry;
use shared::platform::{Platform, PlatformName};
use shared::queue::EnqueuePolicy;
use shared::queue::keys::{KeyLayout, PlatformKeys};
use shared::signature::Keys;

pub(crate) use live::LiveTargets;

use crate::log_interval::LogInterval;
use crate::pipeline::local_rate_limit::LocalRateLimiter;

/// One platform, as the pipeline needs it.
pub(crate) struct IngestTarget {
    /// Its definition.
    pub(crate) platform: Arc<Platform>,
    /// What it is verified with; `None`: not configured.
    pub(crate) keys: Option<Arc<Keys>>,
    /// Its Redis keys.
    pub(crate) queue: PlatformKeys,
    /// What the enqueue script decides by.
    pub(crate) policy: EnqueuePolicy,
    /// The flood shield; `None` where there is no limit.
    pub(crate) limiter: Option<Arc<LocalRateLimiter>>,
    /// Its series.
    pub(crate) metrics: IngressMetrics,
    /// Status of "accepted".
    pub(crate) ack_status: StatusCode,
    /// Status instead of 429 and 408.
    pub(crate) busy_status: Option<StatusCode>,
    /// When an unreadable time was logged last.
    pub(crate) unreadable_logged: LogInterval,
    /// When a time ahead of its arrival was logged last.
    pub(crate) future_logged: LogInterval,
}

/// What holds for all platforms unless one says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetDefaults {
    /// How keys are spelled.
    pub(crate) layout: KeyLayout,
    /// `DEDUP_TTL_HOURS`.
    pub(crate) dedup_ttl: Duration,
    /// `MAX_BACKLOG`.
    pub(crate) max_backlog: u64,
    /// `DLQ_MAX_LEN`.
    pub(crate) max_dead_letters: u64,
}

/// All platforms by every name that a path may carry.
pub(crate) struct TargetTable {
    by_name: HashMap<String, Arc<IngestTarget>>,
    /// Names that mean a platform which this process cannot serve, though it is defined.
    set_aside: BTreeMap<String, PlatformName>,
}

impl IngestTarget {
    /// `before` is the same platform until now: what it counted and what flooded it is not forgotten.
    fn new(
        platform: &Arc<Platform>,
        keys: Option<Arc<Keys>>,
        defaults: &TargetDefaults,
        before: Option<&Arc<Self>>,
    ) -> Self {
        let status = |code: u16| StatusCode::from_u16(code).ok();
        let limit = platform.rate_limit;
        let same_limit = before.filter(|before| before.platform.rate_limit == limit);
        let limiter = same_limit.and_then(|before| before.limiter.clone());
        Self {
            queue: defaults.layout.platform(&platform.name),
            policy: EnqueuePolicy::new(
                limit,
                platform.dedup_ttl.unwrap_or(defaults.dedup_ttl),
                defaults.max_backlog,
            )
            .with_max_dead_letters(defaults.max_dead_letters)
            .with_type_limits(&platform.limits),
            limiter: limiter.or_else(|| {
                limit
                    .per_minute
                    .map(|per_minute| Arc::new(LocalRateLimiter::new(per_minute, limit.burst)))
            }),
            metrics: before.map_or_else(
                || IngressMetrics::new(&platform.name),
                |before| before.metrics.clone(),
            ),
            ack_status: status(platform.ack_status).unwrap_or(StatusCode::ACCEPTED),
            busy_status: platform.busy_status.and_then(status),
            unreadable_logged: LogInterval::default(),
            future_logged: LogInterval::default(),
            platform: Arc::clone(platform),
            keys,
        }
    }

    /// What log lines call it.
    pub(crate) fn log_name(&self) -> &str {
        self.platform.label.as_str()
    }

    /// Whether its operator asked for events of this type.
    pub(crate) fn subscribes(&self, event_type: &str) -> bool {
        self.platform.event_types.as_ref().is_none_or(|types| types.contains(event_type))
    }

    fn is_unchanged(&self, platform: &Arc<Platform>, keys: Option<&Arc<Keys>>) -> bool {
        let same_keys = match (&self.keys, keys) {
            (Some(mine), Some(keys)) => Arc::ptr_eq(mine, keys),
            (mine, keys) => mine.is_none() && keys.is_none(),
        };
        Arc::ptr_eq(&self.platform, platform) && same_keys
    }
}

impl TargetTable {
    /// The platforms of `registry` but for those in `left_out`; those without an entry in `keys` are not configured. What
    /// is as it was in `before` stays the same.
    fn new(
        registry: &Registry,
        left_out: &BTreeSet<PlatformName>,
        keys: impl Fn(&PlatformName) -> Option<Arc<Keys>>,
        defaults: &TargetDefaults,
        before: Option<&Self>,
    ) -> Self {
        let mut by_name = HashMap::new();
        let takes = |one: &&Arc<Platform>| {
            one.name.as_str() != PlatformName::SESSIONS && !left_out.contains(&one.name)
        };
        for platform in registry.iter().filter(takes) {
            let before = before.and_then(|before| before.find(platform.name.as_str()));
            let before = before.filter(|before| before.platform.name == platform.name);
            let keys = keys(&platform.name);
            let target = match before {
                Some(before) if before.is_unchanged(platform, keys.as_ref()) => Arc::clone(before),
                before => Arc::new(IngestTarget::new(platform, keys, defaults, before)),
            };
            for name in platform.aliases.iter().chain([&platform.name]) {
                by_name.insert(name.as_str().to_owned(), Arc::clone(&target));
            }
        }
        Self { by_name, set_aside: BTreeMap::new() }
    }

    /// The platform that a path names, by its name or an alias.
    fn find(&self, name: &str) -> Option<&Arc<IngestTarget>> {
        self.by_name.get(name)
    }

    /// Every platform that can verify, once.
    fn configured(&self) -> impl Iterator<Item = &Arc<IngestTarget>> {
        let by_own_name = |(name, target): &(&String, &Arc<IngestTarget>)| {
            **name == target.platform.name.as_str()
        };
        self.by_name
            .iter()
            .filter(by_own_name)
            .map(|(_, target)| target)
            .filter(|target| target.keys.is_some())
    }
}
