//! Registers, updates, drains, removes and pauses platforms.
//!
//! # Guarantees
//!
//! - A change is made only if Redis still holds the state that it was decided on, so concurrent
//!   changes do not overwrite each other (`registration_change_needs_the_version_it_was_based_on`).
//! - After a change returns, Redis holds it and this process knows it
//!   (`registration_is_known_here_at_once_and_elsewhere_soon`).
//! - A rotation leaves no gap: the new secret is valid at once, and old ones until they expire
//!   (`old_secret_stays_valid_for_its_lifetime`).

use std::sync::Arc;

use super::record::{RegistrationRecord, RegistrationState, StoredSecret, VERSION};
use super::request::Registration;
use super::seal::Sealer;
use super::snapshot::{Snapshot, check_secret};
use super::store::RegistrationStore;
use crate::event::Millis;
use crate::platform::PlatformName;
use crate::platform::registry::NameConflict;
use crate::queue::{CallError, ChangeOutcome, RegistrationChange};

/// Maximum number of valid secrets of a platform.
const MAX_SECRETS: usize = 16;
/// Maximum number of attempts at a change, if others change registrations at the same time.
const MAX_CHANGE_ATTEMPTS: usize = 10;

/// Reason why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Secrets can neither be sealed nor stored in plain text.
    #[error(
        "Platforms cannot be registered: neither SECRETS_KEY nor ALLOW_PLAINTEXT_SECRETS is set"
    )]
    NoKey,
    /// A name is taken, or there are too many platforms.
    #[error("Platform cannot be registered: {0}")]
    NameConflict(#[from] NameConflict),
    /// A newer version registered the platform. This version would lose what it does not know.
    #[error("Platform was registered by a newer version; only a newer version can change it")]
    NewerVersion,
    /// There are too many valid secrets.
    #[error(
        "Platform has {MAX_SECRETS} valid secrets; register with an old_secret_expires_in of 0s to \
         end them"
    )]
    Secrets,
    /// There are too many records.
    #[error("Too many platforms are registered or paused")]
    Full,
    /// There is no registration of this name.
    #[error("No such registered platform")]
    Unknown,
    /// Others changed registrations during every attempt. Nothing was changed.
    #[error("Too many concurrent changes; try again")]
    Contended,
    /// Redis did not answer. [`CallError`] tells whether the change may have been made.
    #[error("Redis did not answer")]
    Redis(#[from] CallError),
}

/// Changes that follow from a snapshot, or the reason why there are none.
type RegistrationDecision = Result<Vec<RegistrationChange>, RegistrationError>;

impl RegistrationStore {
    /// Registers or updates a platform. The definition is replaced as a whole, and old secrets stay
    /// valid for the requested time. A platform that is being removed is registered as new, without
    /// its old secrets.
    ///
    /// # Errors
    /// Returns the reason why nothing was changed. After [`CallError::Unknown`] the platform may
    /// have been registered. It is safe to register it again.
    pub async fn register(
        &self,
        registration: &Registration,
    ) -> Result<Arc<Snapshot>, RegistrationError> {
        let sealer =
            self.sealer().filter(|sealer| sealer.can_seal()).ok_or(RegistrationError::NoKey)?;
        let name = &registration.platform.name;
        self.change(|snapshot, now| {
            if snapshot.newer_version.contains(name) {
                return Err(RegistrationError::NewerVersion);
            }
            snapshot.registry.check_conflicts(&registration.platform)?;
            let before = snapshot.records.get(name).map(Arc::as_ref);
            let record = updated_record(registration, before, sealer, now)?;
            Ok(vec![RegistrationChange::Put(name.clone(), record.to_json())])
        })
        .await
        .inspect(|_| {
            if let Some(remark) = registration.signing_secret.text().remark() {
                tracing::warn!(
                    platform = %name,
                    reason = %remark,
                    "registered secret has extra characters around it; verifying with and without \
                     them"
                );
            }
        })
    }

    /// Starts to remove a registered platform. Its secrets are revoked at once, and its queued
    /// events are still processed. Does nothing if the removal has started already.
    ///
    /// If it has a `url`, the newest secret is kept to sign pending deliveries. It verifies no
    /// requests.
    ///
    /// # Errors
    /// Returns the reason why nothing was changed.
    pub async fn drain(&self, name: &PlatformName) -> Result<Arc<Snapshot>, RegistrationError> {
        self.change(|snapshot, now| {
            let record = snapshot.records.get(name).ok_or_else(|| not_found(snapshot, name))?;
            if record.state == RegistrationState::Draining {
                return Ok(Vec::new());
            }
            let mut record = RegistrationRecord::clone(record);
            (record.state, record.draining_since, record.updated_at) =
                (RegistrationState::Draining, Some(now), now);
            record.secrets.truncate(usize::from(record.url.is_some()));
            Ok(vec![RegistrationChange::Put(name.clone(), record.to_json())])
        })
        .await
    }

    /// Removes the record of a platform that started to drain before `since`. Returns false if
    /// there is none. The caller has checked that nothing of it is queued.
    ///
    /// # Errors
    /// Returns the reason why nothing was changed.
    pub async fn remove_drained(
        &self,
        name: &PlatformName,
        since: Millis,
    ) -> Result<bool, RegistrationError> {
        let drained = |snapshot: &Snapshot| {
            let record = snapshot
                .records
                .get(name)
                .filter(|record| record.state == RegistrationState::Draining);
            record.is_some_and(|record| record.draining_since.is_none_or(|at| at < since))
        };
        let mut removed = false;
        self.change(|snapshot, _| {
            removed = drained(snapshot);
            let both = [
                RegistrationChange::Remove(name.clone()),
                RegistrationChange::Pause(name.clone(), None),
            ];
            Ok(if removed { both.into() } else { Vec::new() })
        })
        .await?;
        Ok(removed)
    }

    /// Pauses or resumes a platform. This overrides its definition.
    ///
    /// # Errors
    /// Returns the reason why nothing was changed.
    pub async fn pause(
        &self,
        name: &PlatformName,
        paused: bool,
    ) -> Result<Arc<Snapshot>, RegistrationError> {
        self.change(|snapshot, _| {
            let there = snapshot.registry.iter().find(|platform| platform.name == *name);
            match there {
                None => Err(not_found(snapshot, name)),
                Some(platform) if platform.paused == paused => Ok(Vec::new()),
                Some(_) => Ok(vec![RegistrationChange::Pause(name.clone(), Some(paused))]),
            }
        })
        .await
    }

    /// Makes the changes that `decide` returns for the current snapshot. An empty list changes
    /// nothing.
    async fn change(
        &self,
        mut decide: impl FnMut(&Snapshot, Millis) -> RegistrationDecision,
    ) -> Result<Arc<Snapshot>, RegistrationError> {
        for _ in 0..MAX_CHANGE_ATTEMPTS {
            let snapshot = self.refresh().await?;
            let changes = decide(&snapshot, self.now())?;
            if changes.is_empty() {
                return Ok(snapshot);
            }
            match self.queue().change_registrations(snapshot.version.as_deref(), &changes).await? {
                // The change is made. Only the resulting snapshot is unknown.
                ChangeOutcome::Done(_) => {
                    return self
                        .refresh()
                        .await
                        .map_err(|fault| CallError::Unknown(fault.into_error()).into());
                }
                ChangeOutcome::Conflict => {}
                ChangeOutcome::Full => return Err(RegistrationError::Full),
            }
        }
        Err(RegistrationError::Contended)
    }
}

fn not_found(snapshot: &Snapshot, name: &PlatformName) -> RegistrationError {
    if snapshot.newer_version.contains(name) {
        RegistrationError::NewerVersion
    } else {
        RegistrationError::Unknown
    }
}

/// Creates the record of `registration`, which replaces `before`.
fn updated_record(
    registration: &Registration,
    before: Option<&RegistrationRecord>,
    sealer: &Sealer,
    now: Millis,
) -> Result<RegistrationRecord, RegistrationError> {
    let Registration { platform, signing_secret, definition, .. } = registration;
    let before = before.filter(|record| record.state == RegistrationState::Active);
    let mut secrets =
        vec![sealer.seal(&platform.name, signing_secret, None).ok_or(RegistrationError::NoKey)?];
    for old in before.into_iter().flat_map(|record| &record.secrets) {
        secrets.extend(keep_until_expiry(registration, old, sealer, now));
    }
    if secrets.len() > MAX_SECRETS {
        return Err(RegistrationError::Secrets);
    }
    Ok(RegistrationRecord {
        v: VERSION,
        definition: definition.clone(),
        secrets,
        url: registration.url.clone(),
        state: RegistrationState::Active,
        draining_since: None,
        registered_at: before.map_or(now, |record| record.registered_at),
        updated_at: now,
        more: before.map(|record| record.more.clone()).unwrap_or_default(),
    })
}

/// Returns a previous secret with its new expiry, or `None` if it is of no more use.
fn keep_until_expiry(
    registration: &Registration,
    old: &StoredSecret,
    sealer: &Sealer,
    now: Millis,
) -> Option<StoredSecret> {
    let Registration { platform, signing_secret, old_secret_lifetime, .. } = registration;
    let until = now
        .saturating_add(Millis::try_from(old_secret_lifetime.as_millis()).unwrap_or(Millis::MAX));
    let until = old.expires_at_ms.map_or(until, |at| at.min(until));
    if until <= now {
        return None;
    }
    match sealer.open(&platform.name, old) {
        Ok(opened)
            if opened == *signing_secret || check_secret(&opened, &platform.scheme).is_err() =>
        {
            None
        }
        // The secret is sealed again, so that a new registration applies a new SECRETS_KEY.
        Ok(opened) => sealer.seal(&platform.name, &opened, Some(until)),
        // Another process may be able to open it.
        Err(_) => Some(StoredSecret { expires_at_ms: Some(until), ..old.clone() }),
    }
}

#[cfg(test)]
mod tests;
