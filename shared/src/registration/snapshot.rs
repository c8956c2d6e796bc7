//! Builds snapshots of all platforms from the records in Redis.
//!
//! # Guarantees
//!
//! - Building never fails. An unusable record is left out and logged once
//!   (`unusable_records_are_listed_and_the_others_load`).
//! - Unchanged platforms and keys keep their [`Arc`], so consumers detect changes with
//!   [`Arc::ptr_eq`] (`unchanged_platforms_keep_their_arc`).
//! - An expired secret is in no snapshot (`expired_secret_verifies_nothing`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::record::{
    RegistrationRecord, RegistrationRecordError, RegistrationState, SigningSecret,
};
use super::request::to_toml;
use super::seal::Sealer;
use crate::config::{Problem, SecretText};
use crate::event::Millis;
use crate::metrics::RegistrationMetrics;
use crate::platform::registry::Registry;
use crate::platform::{Platform, PlatformName};
use crate::queue::Registrations;
use crate::signature::{Credential, Keys, Scheme, Secret};

/// All platforms at one moment: those of the start and the registered ones.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All definitions. An unchanged platform keeps the [`Arc`] of the last snapshot. `paused` has
    /// its last override applied.
    pub registry: Registry,
    /// Keys of registered platforms, if this process opens secrets. A registered platform without
    /// an entry cannot be verified. They take precedence over the environment.
    pub keys: HashMap<PlatformName, Arc<Keys>>,
    /// Registered platforms that are being removed. They stay in `registry`, so that workers
    /// process their queued events.
    pub draining: BTreeSet<PlatformName>,
    /// All readable registrations by name.
    pub records: BTreeMap<PlatformName, Arc<RegistrationRecord>>,
    /// Registrations that this process cannot use, by name and by alias.
    pub unusable: BTreeMap<String, PlatformName>,
    /// Registrations of a newer version than this process knows.
    pub newer_version: BTreeSet<PlatformName>,
    /// Number of the snapshot, which rises with every snapshot of a process.
    pub sequence: u64,
    /// Version in Redis. `None`: nothing was ever registered.
    pub version: Option<String>,
}

/// Builds snapshots and reuses the parts that did not change.
pub(super) struct SnapshotBuilder {
    base: Registry,
    /// `None`: this process verifies no requests and opens no secrets.
    sealer: Option<Sealer>,
    registrations: Registrations,
    known: HashMap<PlatformName, ParsedRecord>,
    /// Platforms with an overridden `paused`: as defined, and with the override.
    adjusted: HashMap<PlatformName, (Arc<Platform>, Arc<Platform>)>,
    /// Problems that were logged.
    logged: BTreeMap<PlatformName, String>,
    next_expiry: Option<Millis>,
    sequence: u64,
    metrics: RegistrationMetrics,
}

/// A record and the result of parsing it.
struct ParsedRecord {
    raw: Vec<u8>,
    found: Result<UsableRecord, UnusableRecord>,
}

struct UsableRecord {
    record: Arc<RegistrationRecord>,
    platform: Arc<Platform>,
    opened: Vec<OpenedSecret>,
    /// Expiry of each secret that cannot be opened, and the reason.
    unopened: Vec<(Option<Millis>, String)>,
    /// Number of secrets of `opened` in the last snapshot, and their keys.
    keys: Option<(usize, Arc<Keys>)>,
}

struct UnusableRecord {
    reason: String,
    newer_version: bool,
}

struct OpenedSecret {
    key: VerificationKey,
    expires_at: Option<Millis>,
}

#[derive(Clone)]
enum VerificationKey {
    Secret(Secret),
    Credential(Credential),
}

impl SnapshotBuilder {
    pub(super) fn new(base: Registry, sealer: Option<Sealer>) -> Self {
        Self {
            base,
            sealer,
            registrations: Registrations::default(),
            known: HashMap::new(),
            adjusted: HashMap::new(),
            logged: BTreeMap::new(),
            next_expiry: None,
            sequence: 0,
            metrics: RegistrationMetrics::new(),
        }
    }

    /// Expiry of the secret in the last snapshot that expires next.
    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.next_expiry
    }

    /// Builds a snapshot of the last records at `now`.
    pub(super) fn rebuild(&mut self, now: Millis) -> Snapshot {
        self.build(self.registrations.clone(), now)
    }

    /// Builds a snapshot of `registrations` at `now`.
    pub(super) fn build(&mut self, registrations: Registrations, now: Millis) -> Snapshot {
        self.parse_records(&registrations);
        let mut failures = BTreeMap::new();
        let (mut unusable, mut newer_version) = (BTreeMap::new(), BTreeSet::new());
        let mut usable = Vec::new();
        for (name, known) in &self.known {
            match &known.found {
                Ok(found) => usable.push((found.record.registered_at, Arc::clone(&found.platform))),
                Err(unusable) => {
                    failures.insert(name.clone(), unusable.reason.clone());
                    newer_version.extend(unusable.newer_version.then(|| name.clone()));
                }
            }
        }
        // If two registrations claim a name, the older one gets it.
        usable.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
        let usable: Vec<_> = usable.into_iter().map(|(_, platform)| platform).collect();
        let adjusted = &mut self.adjusted;
        let (registry, conflicts) = self.base.with_registered(usable, |platform| {
            apply_pause(adjusted, platform, &registrations.paused)
        });
        failures.extend(
            conflicts
                .into_iter()
                .map(|(platform, conflict)| (platform.name.clone(), conflict.to_string())),
        );
        for name in failures.keys() {
            let aliases = registrations
                .records
                .get(name)
                .map(|raw| RegistrationRecord::aliases_of(raw))
                .unwrap_or_default();
            unusable.extend(
                aliases.into_iter().chain([name.to_string()]).map(|one| (one, name.clone())),
            );
        }
        let records = self.records();
        let keys = self.keys(&mut failures, now);
        let draining = |(name, record): &(&PlatformName, &Arc<RegistrationRecord>)| {
            record.state == RegistrationState::Draining && !unusable.contains_key(name.as_str())
        };
        let draining = records.iter().filter(draining).map(|(name, _)| name.clone()).collect();
        self.log_changes(failures, registrations.strange);
        self.sequence += 1;
        let version = registrations.version.clone();
        self.registrations = registrations;
        Snapshot {
            registry,
            keys,
            draining,
            records,
            unusable,
            newer_version,
            sequence: self.sequence,
            version,
        }
    }

    /// Parses the changed records of `registrations` and forgets removed ones.
    fn parse_records(&mut self, registrations: &Registrations) {
        self.known.retain(|name, _| registrations.records.contains_key(name));
        self.adjusted.retain(|name, _| registrations.paused.contains_key(name));
        for (name, raw) in &registrations.records {
            let before = self.known.remove(name);
            let known = match before {
                Some(before) if before.raw == *raw => before,
                before => {
                    let found = self.read(name, raw, before.and_then(|before| before.found.ok()));
                    ParsedRecord { raw: raw.clone(), found }
                }
            };
            self.known.insert(name.clone(), known);
        }
    }

    fn read(
        &self,
        name: &PlatformName,
        raw: &[u8],
        before: Option<UsableRecord>,
    ) -> Result<UsableRecord, UnusableRecord> {
        let record = RegistrationRecord::parse(raw).map_err(|unreadable| UnusableRecord {
            reason: unreadable.to_string(),
            newer_version: matches!(unreadable, RegistrationRecordError::NewerVersion(_)),
        })?;
        // If only the secrets changed, the platform keeps its `Arc`.
        let platform = match before {
            Some(before) if before.record.definition == record.definition => before.platform,
            _ => {
                let compiled = to_toml(&record.definition)
                    .and_then(|table| self.base.compile_registered(name, table));
                Arc::new(compiled.map_err(|problems| UnusableRecord {
                    reason: join_problems(&problems),
                    newer_version: false,
                })?)
            }
        };
        let (mut opened, mut unopened) = (Vec::new(), Vec::new());
        for stored in self.sealer.iter().flat_map(|_| &record.secrets) {
            match self.open(name, stored, &platform.scheme) {
                Ok(keys) => {
                    opened.extend(
                        keys.into_iter()
                            .map(|key| OpenedSecret { key, expires_at: stored.expires_at_ms }),
                    );
                }
                Err(reason) => unopened.push((stored.expires_at_ms, reason)),
            }
        }
        Ok(UsableRecord { record: Arc::new(record), platform, opened, unopened, keys: None })
    }

    fn open(
        &self,
        name: &PlatformName,
        stored: &super::StoredSecret,
        scheme: &Scheme,
    ) -> Result<Vec<VerificationKey>, String> {
        let sealer = self.sealer.as_ref().ok_or("this process opens no secrets")?;
        let signing_secret = sealer
            .open(name, stored)
            .map_err(|reason| format!("a secret cannot be opened: {reason}"))?;
        VerificationKey::all(&signing_secret, scheme)
    }

    /// Returns the valid keys of each platform and adds platforms with an unusable secret to
    /// `failures`.
    fn keys(
        &mut self,
        failures: &mut BTreeMap<PlatformName, String>,
        now: Millis,
    ) -> HashMap<PlatformName, Arc<Keys>> {
        let mut keys = HashMap::new();
        self.next_expiry = None;
        let valid = |at: Option<Millis>| at.is_none_or(|at| at > now);
        for (name, known) in &mut self.known {
            let Ok(usable) = &mut known.found else { continue };
            if failures.contains_key(name) {
                continue;
            }
            let expiries =
                usable.opened.iter().filter_map(|one| one.expires_at).filter(|at| *at > now);
            self.next_expiry = self.next_expiry.into_iter().chain(expiries).min();
            if let Some((_, reason)) = usable.unopened.iter().find(|(at, _)| valid(*at)) {
                failures.insert(name.clone(), reason.clone());
            }
            let now_valid: Vec<_> =
                usable.opened.iter().filter(|one| valid(one.expires_at)).collect();
            if now_valid.is_empty() {
                continue;
            }
            // Valid secrets of an unchanged record only become fewer, so equal counts mean equal
            // secrets.
            let same = usable.keys.take().filter(|(count, _)| *count == now_valid.len());
            let (count, valid) =
                same.unwrap_or_else(|| (now_valid.len(), Arc::new(to_keys(&now_valid))));
            keys.insert(name.clone(), Arc::clone(&valid));
            usable.keys = Some((count, valid));
        }
        keys
    }

    fn records(&self) -> BTreeMap<PlatformName, Arc<RegistrationRecord>> {
        let readable = |(name, known): (&PlatformName, &ParsedRecord)| {
            known.found.as_ref().ok().map(|usable| (name.clone(), Arc::clone(&usable.record)))
        };
        self.known.iter().filter_map(readable).collect()
    }

    /// Logs each unusable platform once per reason.
    fn log_changes(&mut self, failures: BTreeMap<PlatformName, String>, strange: usize) {
        for (name, reason) in
            failures.iter().filter(|(name, reason)| self.logged.get(*name) != Some(reason))
        {
            tracing::error!(
                platform = %name,
                reason,
                "registered platform is unusable in part or whole; others are not affected"
            );
        }
        for name in self.logged.keys().filter(|name| !failures.contains_key(*name)) {
            tracing::info!(platform = %name, "registered platform is usable again or removed");
        }
        self.metrics.unusable(failures.len() + strange);
        self.logged = failures;
    }
}

impl VerificationKey {
    /// Returns the keys of `scheme` that `signing_secret` may mean, see [`Scheme::secrets`].
    ///
    /// # Errors
    /// Returns the reason, without the secret.
    fn all(signing_secret: &SigningSecret, scheme: &Scheme) -> Result<Vec<Self>, String> {
        let secrets = scheme
            .secrets(&signing_secret.text())
            .map_err(|reason| format!("the secret {reason}"))?;
        match (scheme.uses_credentials(), signing_secret.key()) {
            (true, Some(key)) => {
                let key = SecretText::new(key);
                let credential = |secret| Self::Credential(Credential::new(key.clean(), secret));
                Ok(secrets.iter().map(credential).collect())
            }
            (false, None) => Ok(secrets.into_iter().map(Self::Secret).collect()),
            (true, None) => Err("this signature scheme needs a key beside the secret".to_owned()),
            (false, Some(_)) => {
                Err("this signature scheme has no key beside the secret".to_owned())
            }
        }
    }
}

/// Checks that `signing_secret` can verify requests under `scheme`.
///
/// # Errors
/// Returns the reason, without the secret.
pub(super) fn check_secret(signing_secret: &SigningSecret, scheme: &Scheme) -> Result<(), String> {
    VerificationKey::all(signing_secret, scheme).map(drop)
}

/// Collects the keys. All are of one kind, since they fit one scheme.
fn to_keys(opened: &[&OpenedSecret]) -> Keys {
    let (mut secrets, mut credentials) = (Vec::new(), Vec::new());
    for one in opened {
        match one.key.clone() {
            VerificationKey::Secret(secret) => secrets.push(secret),
            VerificationKey::Credential(credential) => credentials.push(credential),
        }
    }
    if credentials.is_empty() { Keys::Secrets(secrets) } else { Keys::Credentials(credentials) }
}

/// Returns `platform` with its override of `paused` applied.
fn apply_pause(
    adjusted: &mut HashMap<PlatformName, (Arc<Platform>, Arc<Platform>)>,
    platform: &Arc<Platform>,
    paused: &BTreeMap<PlatformName, bool>,
) -> Arc<Platform> {
    let Some(paused) =
        paused.get(&platform.name).copied().filter(|paused| *paused != platform.paused)
    else {
        return Arc::clone(platform);
    };
    match adjusted.get(&platform.name) {
        Some((defined, other)) if Arc::ptr_eq(defined, platform) => Arc::clone(other),
        _ => {
            let other = Arc::new(Platform { paused, ..Platform::clone(platform) });
            adjusted.insert(platform.name.clone(), (Arc::clone(platform), Arc::clone(&other)));
            other
        }
    }
}

fn join_problems(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
