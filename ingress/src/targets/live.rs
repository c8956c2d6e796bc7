//! Keeps the table of targets up to date with the registrations.
//!
//! # Guarantees
//!
//! - "Unsupported platform" is answered only after a read of the registrations that began after the
//!   request came. (`unknown_platform_is_unsupported_only_after_a_read`)
//! - Requests for unknown platforms share one read of Redis, a few times a second.
//!   (`concurrent_refreshes_share_a_few_reads`)
//! - Registered platforms override those of the start.
//!   (`registered_platforms_override_those_of_the_start`)
//! - An older snapshot never replaces a newer one. (`older_snapshot_is_ignored`)

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use shared::metrics::IngressMetrics;
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::registration::{RegistrationStore, Snapshot};
use shared::signature::{Keys, Secret};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{IngestTarget, TargetDefaults, TargetTable};
use crate::error::Error;
use crate::redis_gate::RedisGate;

/// Requests for unknown platforms that may wait for a read. Beyond it, the replica is overloaded.
const MAX_PENDING_LOOKUPS: usize = 1024;

/// All platforms as they are now.
pub(crate) struct LiveTargets {
    targets: ArcSwap<TargetTable>,
    sessions: Arc<IngestTarget>,
    unknown: IngressMetrics,
    base: Registry,
    base_keys: HashMap<PlatformName, Arc<Keys>>,
    verify_tokens: HashMap<PlatformName, Secret>,
    defaults: TargetDefaults,
    /// Sequence number of the applied snapshot. 0: none yet.
    applied: Mutex<u64>,
    /// Registrations. `None`: nothing can be registered.
    live: Option<RegistrationStore>,
    pending_lookups: Semaphore,
}

impl LiveTargets {
    /// Builds the targets of the start. Platforms of `registry` without an entry in `keys` are not
    /// configured. `live` has the registrations; see [`Self::follow`].
    pub(crate) fn new(
        registry: &Registry,
        keys: HashMap<PlatformName, Keys>,
        defaults: TargetDefaults,
        live: Option<RegistrationStore>,
    ) -> Self {
        let base_keys: HashMap<_, _> =
            keys.into_iter().map(|(name, keys)| (name, Arc::new(keys))).collect();
        let of = |name: &PlatformName| base_keys.get(name).cloned();
        let targets = TargetTable::new(registry, &BTreeSet::new(), of, &defaults, None);
        Self {
            targets: ArcSwap::from_pointee(targets),
            sessions: Arc::new(IngestTarget::new(registry.sessions(), None, &defaults, None)),
            unknown: IngressMetrics::unknown(),
            base: registry.clone(),
            base_keys,
            verify_tokens: HashMap::new(),
            defaults,
            applied: Mutex::default(),
            live,
            pending_lookups: Semaphore::new(MAX_PENDING_LOOKUPS),
        }
    }

    /// Adds the verify tokens of `meta` handshakes.
    pub(crate) fn with_verify_tokens(self, verify_tokens: HashMap<PlatformName, Secret>) -> Self {
        Self { verify_tokens, ..self }
    }

    /// Returns the verify token that a dashboard must present for `platform`.
    pub(crate) fn verify_token(&self, platform: &PlatformName) -> Option<&Secret> {
        self.verify_tokens.get(platform)
    }

    /// Applies registrations until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        let Some(live) = &self.live else { return };
        let mut snapshots = live.subscribe();
        loop {
            if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                self.apply(&snapshot);
            }
            if !matches!(stop.run_until_cancelled(snapshots.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Applies `snapshot` unless a newer one was applied.
    pub(crate) fn apply(&self, snapshot: &Snapshot) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.sequence <= *applied {
            return;
        }
        let keys = |name: &PlatformName| {
            snapshot.keys.get(name).or_else(|| self.base_keys.get(name)).cloned()
        };
        let before = self.targets.load();
        let next = TargetTable::new(
            &snapshot.registry,
            &snapshot.draining,
            keys,
            &self.defaults,
            Some(&before),
        );
        self.targets.store(Arc::new(TargetTable { unusable: snapshot.unusable.clone(), ..next }));
        *applied = snapshot.sequence;
    }

    /// Returns the platform with this name or alias, as far as it is known.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<IngestTarget>> {
        self.targets.load().find(name).cloned()
    }

    /// Returns the platform with this name or alias. Reads the registrations again if the name is
    /// unknown.
    ///
    /// # Errors
    /// [`Error::UnsupportedPlatform`] if there is none, anything else if that is uncertain.
    pub(crate) async fn resolve(
        &self,
        name: &str,
        gate: &RedisGate,
    ) -> Result<Arc<IngestTarget>, Error> {
        match self.find(name) {
            Some(target) => Ok(target),
            None => self.refresh_and_resolve(name, gate).await,
        }
    }

    async fn refresh_and_resolve(
        &self,
        name: &str,
        gate: &RedisGate,
    ) -> Result<Arc<IngestTarget>, Error> {
        let unsupported = || Error::unsupported_platform(name);
        // No platform can have such a name.
        if PlatformName::new(name).is_err() {
            return Err(unsupported());
        }
        let Some(live) = &self.live else { return Err(unsupported()) };
        gate.check_open()?;
        if live.current().is_none() {
            return Err(Error::QueueUnavailable("registrations have not been read yet"));
        }
        let _asking = self.pending_lookups.try_acquire().map_err(|_| Error::Busy)?;
        let snapshot = live.refresh().await.map_err(Error::QueueRefused)?;
        self.apply(&snapshot);
        if self.targets.load().unusable.contains_key(name) {
            return Err(Error::QueueUnavailable(
                "this process cannot use the platform's registration",
            ));
        }
        self.find(name).ok_or_else(unsupported)
    }

    /// Returns the reserved platform of session announcements.
    pub(crate) fn sessions(&self) -> &Arc<IngestTarget> {
        &self.sessions
    }

    /// Returns the metrics of undefined platforms.
    pub(crate) fn unknown(&self) -> &IngressMetrics {
        &self.unknown
    }

    /// Returns the names of all platforms that can verify, sorted.
    pub(crate) fn configured(&self) -> Vec<PlatformName> {
        let targets = self.targets.load();
        let mut names: Vec<_> =
            targets.configured().map(|target| target.platform.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the definitions of the start.
    pub(crate) fn base(&self) -> &Registry {
        &self.base
    }

    /// Returns true if the keys of `name` were configured at the start.
    pub(crate) fn configured_at_start(&self, name: &PlatformName) -> bool {
        self.base_keys.contains_key(name)
    }

    /// Returns the registrations. `None`: nothing can be registered.
    pub(crate) fn live(&self) -> Option<&RegistrationStore> {
        self.live.as_ref()
    }
}

#[cfg(test)]
mod tests;
