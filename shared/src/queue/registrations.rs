//! Store of the platforms registered at run time: one hash, read whole and changed by one script.
//!
//! | field | value |
//! |---|---|
//! | name of a platform | its record, see [`crate::registration`] |
//! | `paused:{name}` | `1` or `0`, overrides the platform's own setting |
//! | `#version` | new value with every change |
//!
//! # Guarantees
//!
//! - A change applies to the version that its caller has read, or fails with
//!   [`ChangeOutcome::Conflict`] (`registration_change_needs_the_version_it_was_based_on`).
//! - The number of fields is bounded (`registrations_are_bounded_and_can_be_removed_beyond`).
//! - Unknown fields are counted and ignored
//!   (`registrations_classify_fields_and_count_unknown_ones`).

use std::collections::BTreeMap;

use redis::cmd;
use uuid::Uuid;

use super::keys::{REGISTRATIONS, REGISTRATIONS_VERSION};
use super::{CallError, Queue};
use crate::event::Millis;
use crate::platform::PlatformName;
use crate::platform::registry::MAX_PLATFORMS;

/// Maximum number of fields: a record and a pause per registered platform, a pause per other
/// platform, and the version.
const MAX_FIELDS: usize = 4 * MAX_PLATFORMS;
/// Prefix of a field that pauses a platform.
const PAUSED: &str = "paused:";

/// All registrations at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Version, different after every change; `None`: no platform was ever registered here.
    pub version: Option<String>,
    /// Undecoded records by name.
    pub records: BTreeMap<PlatformName, Vec<u8>>,
    /// Overrides of the platforms' own `paused`.
    pub paused: BTreeMap<PlatformName, bool>,
    /// Number of fields of no known kind.
    pub strange: usize,
}

/// Change of the registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationChange {
    /// Stores a record, which must not be empty, in place of an older one.
    Put(PlatformName, Vec<u8>),
    /// Removes a record.
    Remove(PlatformName),
    /// Overrides a platform's own `paused`; `None` removes the override.
    Pause(PlatformName, Option<bool>),
}

/// Outcome of a set of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// All changes were made. Holds the new version.
    Done(String),
    /// No change was made, because the version has changed. Read again and decide again.
    Conflict,
    /// No change was made, because there would be too many fields.
    Full,
}

impl Queue {
    /// Version of the registrations, and Redis's time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn registrations_version(&self) -> Result<(Option<String>, Millis), CallError> {
        let mut commands = redis::pipe();
        commands.add_command(version()).add_command(cmd("TIME"));
        let (version, (seconds, micros)): (Option<String>, (i64, i64)) =
            self.connection.pipeline(&commands).await?;
        Ok((version, seconds * 1000 + micros / 1000))
    }

    /// All registrations.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn registrations(&self) -> Result<Registrations, CallError> {
        let fields: Vec<(Vec<u8>, Vec<u8>)> =
            self.connection.query(cmd("HGETALL").arg(REGISTRATIONS)).await?;
        Ok(Registrations::read(fields))
    }

    /// Makes all of `changes` if `version` is still current, else none.
    ///
    /// # Errors
    /// If Redis does not answer. After [`CallError::Unknown`] they may have been made.
    pub async fn change_registrations(
        &self,
        version: Option<&str>,
        changes: &[RegistrationChange],
    ) -> Result<ChangeOutcome, CallError> {
        let next = Uuid::new_v4().to_string();
        let script = &self.scripts.change_registrations;
        let mut call =
            script.call(&[REGISTRATIONS], changes.iter().map(RegistrationChange::bytes).sum());
        call.arg(version.unwrap_or_default()).arg(&next).arg(MAX_FIELDS);
        for change in changes {
            match change {
                RegistrationChange::Put(name, record) => {
                    call.arg(name.as_str()).arg(record.as_slice())
                }
                RegistrationChange::Remove(name) => call.arg(name.as_str()).arg(""),
                RegistrationChange::Pause(name, on) => {
                    call.arg(format!("{PAUSED}{name}")).arg(match on {
                        Some(true) => "1",
                        Some(false) => "0",
                        None => "",
                    })
                }
            };
        }
        let reply = script.run_confirmed(&self.connection, &call).await?;
        match redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))? {
            1 => Ok(ChangeOutcome::Done(next)),
            0 => Ok(ChangeOutcome::Conflict),
            -1 => Ok(ChangeOutcome::Full),
            _ => Err(CallError::unexpected_reply("unexpected reply of change_registrations")),
        }
    }
}

impl RegistrationChange {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(_, record) => 96 + record.len(),
            Self::Remove(_) | Self::Pause(..) => 96,
        }
    }
}

impl Registrations {
    fn read(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let mut read = Self::default();
        for (field, value) in fields {
            let Ok(field) = std::str::from_utf8(&field) else {
                read.strange += 1;
                continue;
            };
            let paused = field.strip_prefix(PAUSED);
            match (PlatformName::new(paused.unwrap_or(field)), paused, value.as_slice()) {
                _ if field == REGISTRATIONS_VERSION => {
                    read.version = Some(String::from_utf8_lossy(&value).into())
                }
                (Ok(name), None, _) => drop(read.records.insert(name, value)),
                (Ok(name), Some(_), b"1") => drop(read.paused.insert(name, true)),
                (Ok(name), Some(_), b"0") => drop(read.paused.insert(name, false)),
                _ => read.strange += 1,
            }
        }
        read
    }
}

fn version() -> redis::Cmd {
    let mut version = cmd("HGET");
    version.arg(REGISTRATIONS).arg(REGISTRATIONS_VERSION);
    version
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn registrations_classify_fields_and_count_unknown_ones() {
        let name = |text: &str| PlatformName::new(text).unwrap();
        let fields = [
            ("acme", "{}"),
            ("paused:acme", "1"),
            ("paused:mux", "0"),
            ("#version", "v1"),
            ("Not A Name", "{}"),
            ("paused:other", "yes"),
        ];
        let read = Registrations::read(
            fields.iter().map(|(f, v)| (f.as_bytes().into(), v.as_bytes().into())).collect(),
        );
        assert_eq!(read.version.as_deref(), Some("v1"));
        assert_eq!(read.records, BTreeMap::from([(name("acme"), b"{}".to_vec())]));
        assert_eq!(read.paused, BTreeMap::from([(name("acme"), true), (name("mux"), false)]));
        assert_eq!(read.strange, 2);
        assert_eq!(Registrations::read(vec![(vec![0xff], vec![])]).strange, 1);
    }
}
