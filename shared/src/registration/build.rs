//! From what stands in Redis to what a process works with.
//!
//! Guarantee: building never fails. A record that cannot be used here is left out, named and told once; what did not
//! change keeps its identity ([`Arc::ptr_eq`]), so that others see what did. A secret that has expired is in no picture.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::record::{Material, Record, State, Unreadable};
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
    pub records: BTreeMap<PlatformName, Arc<Record>>,
    /// Registrations that this process cannot use, by name and by alias: defined, but not here.
    pub set_aside: BTreeMap<String, PlatformName>,
    /// Registrations of a later version than this process knows.
    pub later: BTreeSet<PlatformName>,
    /// Rises with every snapshot of a process.
    pub sequence: u64,
    /// The version in Redis; `None`: nothing was ever registered.
    pub version: Option<String>,
}

/// Builds snapshots, and remembers what it built them from.
pub(super) struct Builder {
    base: Registry,
    /// `None`: this process verifies nothing, and opens no secret.
    sealer: Option<Sealer>,
    picture: Registrations,
    known: HashMap<PlatformName, Known>,
    /// Platforms whose `paused` is overridden: as defined, and as overridden.
    adjusted: HashMap<PlatformName, (Arc<Platform>, Arc<Platform>)>,
    /// What was told of those that cannot be used.
    told: BTreeMap<PlatformName, String>,
    next_expiry: Option<Millis>,
    sequence: u64,
    metrics: RegistrationMetrics,
}

/// What became of one record.
struct Known {
    raw: Vec<u8>,
    found: Result<Usable, Unusable>,
}

struct Usable {
    record: Arc<Record>,
    platform: Arc<Platform>,
    opened: Vec<Opened>,
    /// Secrets that are not usable here: until when, and why.
    unopened: Vec<(Option<Millis>, String)>,
    /// What of `opened` was in the last snapshot: how many, and as one.
    keys: Option<(usize, Arc<Keys>)>,
}

struct Unusable {
    reason: String,
    later: bool,
}

struct Opened {
    key: Key,
    expires_at: Option<Millis>,
}

#[derive(Clone)]
enum Key {
    Secret(Secret),
    Credential(Credential),
}

impl Builder {
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
    pub(super) fn again(&mut self, now: Millis) -> Snapshot {
        self.build(self.picture.clone(), now)
    }

    /// What `picture` means at `now`.
    pub(super) fn build(&mut self, picture: Registrations, now: Millis) -> Snapshot {
        self.learn(&picture);
        let mut aside = BTreeMap::new();
        let (mut set_aside, mut later) = (BTreeMap::new(), BTreeSet::new());
        let mut usable = Vec::new();
        for (name, known) in &self.known {
            match &known.found {
                Ok(found) => usable.push((found.record.registered_at, Arc::clone(&found.platform))),
                Err(unusable) => {
                    aside.insert(name.clone(), unusable.reason.clone());
                    later.extend(unusable.later.then(|| name.clone()));
                }
            }
        }
        // Who was registered first keeps a name that two have come to want.
        usable.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
        let usable: Vec<_> = usable.into_iter().map(|(_, platform)| platform).collect();
        let adjusted = &mut self.adjusted;
        let (registry, refused) = self
            .base
            .with_registered(usable, |platform| adjust(adjusted, platform, &picture.paused));
        aside.extend(
            refused.into_iter().map(|(platform, clash)| (platform.name.clone(), clash.to_string())),
        );
        for name in aside.keys() {
            let aliases =
                picture.records.get(name).map(|raw| Record::aliases_of(raw)).unwrap_or_default();
            set_aside.extend(
                aliases.into_iter().chain([name.to_string()]).map(|one| (one, name.clone())),
            );
        }
        let records = self.records();
        let keys = self.keys(&mut aside, now);
        let draining = |(name, record): &(&PlatformName, &Arc<Record>)| {
            record.state == State::Draining && !set_aside.contains_key(name.as_str())
        };
        let draining = records.iter().filter(draining).map(|(name, _)| name.clone()).collect();
        self.tell(aside, picture.strange);
        self.sequence += 1;
        let version = picture.version.clone();
        self.picture = picture;
        Snapshot {
            registry,
            keys,
            draining,
            records,
            set_aside,
            later,
            sequence: self.sequence,
            version,
        }
    }

    /// Reads what is new in `picture`, and forgets what is gone.
    fn learn(&mut self, picture: &Registrations) {
        self.known.retain(|name, _| picture.records.contains_key(name));
        self.adjusted.retain(|name, _| picture.paused.contains_key(name));
        for (name, raw) in &picture.records {
            let before = self.known.remove(name);
            let known = match before {
                Some(before) if before.raw == *raw => before,
                before => {
                    let found = self.read(name, raw, before.and_then(|before| before.found.ok()));
                    Known { raw: raw.clone(), found }
                }
            };
            self.known.insert(name.clone(), known);
        }
    }

    fn read(
        &self,
        name: &PlatformName,
        raw: &[u8],
        before: Option<Usable>,
    ) -> Result<Usable, Unusable> {
        let record = Record::parse(raw).map_err(|unreadable| Unusable {
            reason: unreadable.to_string(),
            later: matches!(unreadable, Unreadable::Later(_)),
        })?;
        // A change of secrets alone is no change of the definition.
        let platform = match before {
            Some(before) if before.record.definition == record.definition => before.platform,
            _ => {
                let compiled =
                    table(&record.definition).and_then(|table| self.base.registered(name, table));
                Arc::new(
                    compiled
                        .map_err(|problems| Unusable { reason: joined(&problems), later: false })?,
                )
            }
        };
        let (mut opened, mut unopened) = (Vec::new(), Vec::new());
        for stored in self.sealer.iter().flat_map(|_| &record.secrets) {
            match self.open(name, stored, &platform.scheme) {
                Ok(keys) => {
                    opened.extend(
                        keys.into_iter()
                            .map(|key| Opened { key, expires_at: stored.expires_at_ms }),
                    );
                }
                Err(reason) => unopened.push((stored.expires_at_ms, reason)),
            }
        }
        Ok(Usable { record: Arc::new(record), platform, opened, unopened, keys: None })
    }

    fn open(
        &self,
        name: &PlatformName,
        stored: &super::StoredSecret,
        scheme: &Scheme,
    ) -> Result<Vec<Key>, String> {
        let sealer = self.sealer.as_ref().ok_or("this process opens no secrets")?;
        let material = sealer
            .open(name, stored)
            .map_err(|reason| format!("a secret cannot be opened: {reason}"))?;
        Key::all(&material, scheme)
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
                same.unwrap_or_else(|| (now_valid.len(), Arc::new(together(&now_valid))));
            keys.insert(name.clone(), Arc::clone(&valid));
            usable.keys = Some((count, valid));
        }
        keys
    }

    fn records(&self) -> BTreeMap<PlatformName, Arc<Record>> {
        let readable = |(name, known): (&PlatformName, &Known)| {
            known.found.as_ref().ok().map(|usable| (name.clone(), Arc::clone(&usable.record)))
        };
        self.known.iter().filter_map(readable).collect()
    }

    /// Says what cannot be used, once for each reason.
    fn tell(&mut self, aside: BTreeMap<PlatformName, String>, strange: usize) {
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

impl Key {
    /// The keys of `scheme` that `material` may stand for, see [`Scheme::secrets`].
    ///
    /// # Errors
    /// Why it cannot be one; never the secret.
    fn all(material: &Material, scheme: &Scheme) -> Result<Vec<Self>, String> {
        let secrets =
            scheme.secrets(&material.text()).map_err(|reason| format!("the secret {reason}"))?;
        match (scheme.uses_credentials(), material.key()) {
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

/// Whether `material` can verify under `scheme`.
///
/// # Errors
/// Why not; never the secret.
pub(super) fn fits(material: &Material, scheme: &Scheme) -> Result<(), String> {
    Key::all(material, scheme).map(drop)
}

/// All of one kind, since they fit one scheme.
fn together(opened: &[&Opened]) -> Keys {
    let (mut secrets, mut credentials) = (Vec::new(), Vec::new());
    for one in opened {
        match one.key.clone() {
            Key::Secret(secret) => secrets.push(secret),
            Key::Credential(credential) => credentials.push(credential),
        }
    }
    if credentials.is_empty() { Keys::Secrets(secrets) } else { Keys::Credentials(credentials) }
}

/// `platform` as it is to be: with `paused` as somebody set it.
fn adjust(
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

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
