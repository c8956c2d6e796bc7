//! The directory as it is now, which follows what is registered.
//!
//! Guarantee: "unsupported platform" is said only when that is so: not before what is registered was read once, and then
//! only after a read that began when the request was here already. However many ask for what does not exist, Redis is
//! read one time for all of them, a few times a second. What is registered is laid over what this process began with, and
//! never goes back to an older picture.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use shared::metrics::IngressMetrics;
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::registration::{Live, Snapshot};
use shared::signature::{Keys, Secret};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{IngestTarget, TargetDefaults, TargetTable};
use crate::error::Error;
use crate::redis_gate::RedisGate;

/// Most requests for unknown platforms that wait for a read; beyond it this replica is overloaded.
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
    /// The snapshot that was applied last; 0: none yet.
    applied: Mutex<u64>,
    /// `None`: nothing can be registered.
    live: Option<Live>,
    pending_lookups: Semaphore,
}

impl LiveTargets {
    /// What this process began with: `registry`, where those without an entry in `keys` are not configured. `live` says what
    /// is registered besides; see [`Self::follow`].
    pub(crate) fn new(
        registry: &Registry,
        keys: HashMap<PlatformName, Keys>,
        defaults: TargetDefaults,
        live: Option<Live>,
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

    /// Adds the tokens of the handshakes of kind `meta`.
    pub(crate) fn with_verify_tokens(self, verify_tokens: HashMap<PlatformName, Secret>) -> Self {
        Self { verify_tokens, ..self }
    }

    /// Returns the token that a dashboard must present for `platform`.
    pub(crate) fn verify_token(&self, platform: &PlatformName) -> Option<&Secret> {
        self.verify_tokens.get(platform)
    }

    /// Follows what is registered until `stop`.
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

    /// Takes over `snapshot`, unless a newer one was taken over already.
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
        self.targets.store(Arc::new(TargetTable { set_aside: snapshot.set_aside.clone(), ..next }));
        *applied = snapshot.sequence;
    }

    /// The platform that a path names, by its name or an alias, as far as is known.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<IngestTarget>> {
        self.targets.load().find(name).cloned()
    }

    /// The platform that a path names, if need be after another look at what is registered, while Redis may be asked.
    ///
    /// # Errors
    /// [`Error::UnsupportedPlatform`] when there is none; anything else when that is not certain.
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
        // Nothing could be registered under such a name.
        if PlatformName::new(name).is_err() {
            return Err(unsupported());
        }
        let Some(live) = &self.live else { return Err(unsupported()) };
        gate.check_open()?;
        if live.current().is_none() {
            return Err(Error::QueueUnavailable("what is registered has not been read yet"));
        }
        let _asking = self.pending_lookups.try_acquire().map_err(|_| Error::Busy)?;
        let snapshot = live.fresh().await.map_err(Error::QueueRefused)?;
        self.apply(&snapshot);
        if self.targets.load().set_aside.contains_key(name) {
            return Err(Error::QueueUnavailable(
                "the platform is registered in a way that this process cannot use",
            ));
        }
        self.find(name).ok_or_else(unsupported)
    }

    /// The reserved platform of announced sessions.
    pub(crate) fn sessions(&self) -> &Arc<IngestTarget> {
        &self.sessions
    }

    /// The series of platforms that nobody defined.
    pub(crate) fn unknown(&self) -> &IngressMetrics {
        &self.unknown
    }

    /// The names of all platforms that can verify, sorted.
    pub(crate) fn configured(&self) -> Vec<PlatformName> {
        let targets = self.targets.load();
        let mut names: Vec<_> =
            targets.configured().map(|target| target.platform.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What this process began with.
    pub(crate) fn base(&self) -> &Registry {
        &self.base
    }

    /// Whether this process began with something that `name` is verified with.
    pub(crate) fn configured_at_start(&self, name: &PlatformName) -> bool {
        self.base_keys.contains_key(name)
    }

    /// What is registered; `None`: nothing can be.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }
}

#[cfg(test)]
mod tests;
