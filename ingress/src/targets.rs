//! Resolves the platform names in paths.
//!
//! # Guarantees
//!
//! - A table never changes. [`LiveTargets`] replaces it, so a request needs one load, one look-up
//!   and no lock. (`unchanged_targets_and_their_limiters_are_kept`)
//! - The reserved platform is reachable through [`LiveTargets::sessions`] only, never by a path.
//!   (`checks_run_in_the_order_of_the_contract`)

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

/// Platform as the pipeline needs it.
pub(crate) struct IngestTarget {
    /// Definition of the platform.
    pub(crate) platform: Arc<Platform>,
    /// Keys that verify its webhooks. `None`: not configured.
    pub(crate) keys: Option<Arc<Keys>>,
    /// Redis keys of its queue.
    pub(crate) queue: PlatformKeys,
    /// Policy of the enqueue script.
    pub(crate) policy: EnqueuePolicy,
    /// Flood limit of this process. `None`: the platform has no rate limit.
    pub(crate) limiter: Option<Arc<LocalRateLimiter>>,
    /// Metrics of the platform.
    pub(crate) metrics: IngressMetrics,
    /// Status of an accepted event.
    pub(crate) ack_status: StatusCode,
    /// Status instead of 429 and 408.
    pub(crate) busy_status: Option<StatusCode>,
    /// Limits the log lines about unreadable event times.
    pub(crate) unreadable_logged: LogInterval,
    /// Limits the log lines about event times in the future.
    pub(crate) future_logged: LogInterval,
}

/// Defaults of all platforms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetDefaults {
    /// Layout of the Redis keys.
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
    /// Names of defined platforms that this process cannot serve.
    unusable: BTreeMap<String, PlatformName>,
}

impl IngestTarget {
    /// Builds the target. Metrics and rate limiter of `before`, the same platform until now, are
    /// kept.
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

    /// Returns the name that log lines use.
    pub(crate) fn log_name(&self) -> &str {
        self.platform.label.as_str()
    }

    /// Returns true if the platform subscribes to events of this type.
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
    /// Builds the table of the platforms in `registry` without those in `left_out`. A platform
    /// without keys is not configured. An unchanged platform keeps its target from `before`.
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
        Self { by_name, unusable: BTreeMap::new() }
    }

    /// Returns the platform with this name or alias.
    fn find(&self, name: &str) -> Option<&Arc<IngestTarget>> {
        self.by_name.get(name)
    }

    /// Returns every platform that can verify, once.
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
