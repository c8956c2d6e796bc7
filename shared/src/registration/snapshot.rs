//! From what stands in Redis to what a process works with.
//!
//! Guarantee: building never fails. A record that cannot be used here is left out, named and told once; what did not
//! change keeps its identity ([`Arc::ptr_eq`]), so that others see what did. A secret that has expired is in no picture.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::record::{
    RegistrationRecord, RegistrationRecordError, RegistrationState, SigningSecret,
};
use super::request::table;
use super::seal::Sealer;
use crate::config::{Problem, SecretText};
use crate::event::Millis;
use crate::metrics::RegistrationMetrics;
use crate::platform::registry::Registry;
use crate::platform::{Platform, PlatformName};
use crate::queue::Registrations;
use crate::signature::{Credential, Keys, Scheme, Secret};

/// All platforms at one moment: those that the process began with, and those that are registered.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All definitions. A platform that did not change since the last snapshot is the same [`Arc`]; `paused` is as
    /// somebody set it last.
    pub registry: Registry,
    /// What registered platforms are verified with, as far as this process opens secrets. A registered platform that is
    /// missing here cannot verify now. They go before what the environment says of the same name.
    pub keys: HashMap<PlatformName, Arc<Keys>>,
    /// Registered ones that take no webhooks any more: still in `registry`, so that workers finish what is queued.
    pub draining: BTreeSet<PlatformName>,
    /// All registrations that this process can read, by name.
    pub records: BTreeMap<PlatformName, Arc<RegistrationRecord>>,
    /// Registrations that this process cannot use, by name and by alias: defined, but not here.
    pub unusable: BTreeMap<String, PlatformName>,
    /// Registrations of a later version than this process knows.
    pub newer_version: BTreeSet<PlatformName>,
    /// Rises with every snapshot of a process.
    pub sequence: u64,
    /// The version in Redis; `None`: nothing was ever registered.
    pub version: Option<String>,
}

/// Builds snapshots, and remembers what it built them from.
pub(super) struct SnapshotBuilder {
    base: Registry,
    /// `None`: this process verifies nothing, and opens no secret.
    sealer: Option<Sealer>,
    picture: Registrations,
    known: HashMap<PlatformName, ParsedRecord>,
    /// Platforms whose `paused` is overridden: as defined, and as overridden.
    adjusted: HashMap<PlatformName, (Arc<Platform>, Arc<Platform>)>,
    /// What was told of those that cannot be used.
    told: BTreeMap<PlatformName, String>,
    next_expiry: Option<Millis>,
    sequence: u64,
    metrics: RegistrationMetrics,
}

/// What became of one record.
struct ParsedRecord {
    raw: Vec<u8>,
    found: Result<UsableRecord, UnusableRecord>,
}

struct UsableRecord {
    record: Arc<RegistrationRecord>,
    platform: Arc<Platform>,
    opened: Vec<OpenedSecret>,
    /// Secrets that are not usable here: until when, and why.
    unopened: Vec<(Option<Millis>, String)>,
    /// What of `opened` was in the last snapshot: how many, and as one.
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
            picture: Registrations::default(),
            known: HashMap::new(),
            adjusted: HashMap::new(),
            told: BTreeMap::new(),
            next_expiry: None,
            sequence: 0,
            metrics: RegistrationMetrics::new(),
        }
    }

    /// When the next secret of the last snapshot expires.
    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.next_expiry
    }

    /// The picture of the last snapshot again, as it is `now`.
    pub(super) fn rebuild(&mut self, now: Millis) -> Snapshot {
        self.build(self.picture.clone(), now)
    }

    /// What `picture` means at `now`.
    pub(super) fn build(&mut self, picture: Registrations, now: Millis) -> Snapshot {
        self.parse_records(&picture);
        let mut aside = BTreeMap::new();
        let (mut unusable, mut newer_version) = (BTreeMap::new(), BTreeSet::new());
        let mut usable = Vec::new();
        for (name, known) in &self.known {
            match &known.found {
                Ok(found) => usable.push((found.record.registered_at, Arc::clone(&found.platform))),
                Err(unusable) => {
                    aside.insert(name.clone(), unusable.reason.clone());
                    newer_version.extend(unusable.newer_version.then(|| name.clone()));
                }
            }
        }
        // Who was registered first keeps a name that two have come to want.
        usable.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
        let usable: Vec<_> = usable.into_iter().map(|(_, platform)| platform).collect();
        let adjusted = &mut self.adjusted;
        let (registry, refused) = self
            .base
            .with_registered(usable, |platform| apply_pause(adjusted, platform, &picture.paused));
        aside.extend(
            refused.into_iter().map(|(platform, clash)| (platform.name.clone(), clash.to_string())),
        );
        for name in aside.keys() {
            let aliases = picture
                .records
                .get(name)
                .map(|raw| RegistrationRecord::aliases_of(raw))
                .unwrap_or_default();
            unusable.extend(
                aliases.into_iter().chain([name.to_string()]).map(|one| (one, name.clone())),
            );
        }
        let records = self.records();
        let keys = self.keys(&mut aside, now);
        let draining = |(name, record): &(&PlatformName, &Arc<RegistrationRecord>)| {
            record.state == RegistrationState::Draining && !unusable.contains_key(name.as_str())
        };
        let draining = records.iter().filter(draining).map(|(name, _)| name.clone()).collect();
        self.log_changes(aside, picture.strange);
        self.sequence += 1;
        let version = picture.version.clone();
        self.picture = picture;
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

    /// Reads what is new in `picture`, and forgets what is gone.
    fn parse_records(&mut self, picture: &Registrations) {
        self.known.retain(|name, _| picture.records.contains_key(name));
        self.adjusted.retain(|name, _| picture.paused.contains_key(name));
        for (name, raw) in &picture.records {
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
        // A change of secrets alone is no change of the definition.
        let platform = match before {
            Some(before) if before.record.definition == record.definition => before.platform,
            _ => {
                let compiled = table(&record.definition)
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

    /// What each platform is verified with now; notes those of which something is not usable.
    fn keys(
        &mut self,
        aside: &mut BTreeMap<PlatformName, String>,
        now: Millis,
    ) -> HashMap<PlatformName, Arc<Keys>> {
        let mut keys = HashMap::new();
        self.next_expiry = None;
        let valid = |at: Option<Millis>| at.is_none_or(|at| at > now);
        for (name, known) in &mut self.known {
            let Ok(usable) = &mut known.found else { continue };
            if aside.contains_key(name) {
                continue;
            }
            let expiries =
                usable.opened.iter().filter_map(|one| one.expires_at).filter(|at| *at > now);
            self.next_expiry = self.next_expiry.into_iter().chain(expiries).min();
            if let Some((_, reason)) = usable.unopened.iter().find(|(at, _)| valid(*at)) {
                aside.insert(name.clone(), reason.clone());
            }
            let now_valid: Vec<_> =
                usable.opened.iter().filter(|one| valid(one.expires_at)).collect();
            if now_valid.is_empty() {
                continue;
            }
            // The same secrets only ever become fewer.
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

    /// Says what cannot be used, once for each reason.
    fn log_changes(&mut self, aside: BTreeMap<PlatformName, String>, strange: usize) {
        for (name, reason) in
            aside.iter().filter(|(name, reason)| self.told.get(*name) != Some(reason))
        {
            tracing::error!(platform = %name, reason, "a registered platform is not as it should be here");
        }
        for name in self.told.keys().filter(|name| !aside.contains_key(*name)) {
            tracing::info!(platform = %name, "a registered platform is as it should be again, or gone");
        }
        self.metrics.unusable(aside.len() + strange);
        self.told = aside;
    }
}

impl VerificationKey {
    /// The keys of `scheme` that `signing_secret` may stand for, see [`Scheme::secrets`].
    ///
    /// # Errors
    /// Why it cannot be one; never the secret.
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

/// Whether `signing_secret` can verify under `scheme`.
///
/// # Errors
/// Why not; never the secret.
pub(super) fn check_secret(signing_secret: &SigningSecret, scheme: &Scheme) -> Result<(), String> {
    VerificationKey::all(signing_secret, scheme).map(drop)
}

/// All of one kind, since they fit one scheme.
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

/// `platform` as it is to be: with `paused` as somebody set it.
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
