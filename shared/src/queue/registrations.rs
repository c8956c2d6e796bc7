//! What is registered while the system runs: one hash, read whole and changed by one script.
//!
//! Guarantee: a change happens to exactly what its caller looked at, or not at all ([`ChangeOutcome::Conflict`]), and every
//! change gives the hash a version that it never had, so that whoever compares versions misses none. The number of
//! fields is bounded. What a record says is [`crate::registration`]'s business; here it is bytes.

use std::collections::BTreeMap;

use redis::cmd;
use uuid::Uuid;

use super::keys::{REGISTRATIONS, REGISTRATIONS_VERSION};
use super::{CallError, Queue};
use crate::event::Millis;
use crate::platform::PlatformName;
use crate::platform::registry::MAX_PLATFORMS;

/// Most fields: a record and a pause for each registered platform, a pause for each other one, and the version.
const MAX_FIELDS: usize = 4 * MAX_PLATFORMS;
/// What stands before a name in the field that pauses it.
const PAUSED: &str = "paused:";

/// All that is registered, as it was at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Changes with every change; `None`: nothing was ever registered here.
    pub version: Option<String>,
    /// Records by name, not looked into.
    pub records: BTreeMap<PlatformName, Vec<u8>>,
    /// Platforms whose own `paused` is overridden, and by what.
    pub paused: BTreeMap<PlatformName, bool>,
    /// Fields that are none of these.
    pub strange: usize,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationChange {
    /// Puts a record in the place of what is there; it must not be empty.
    Put(PlatformName, Vec<u8>),
    /// Removes a record.
    Remove(PlatformName),
    /// Overrides a platform's own `paused`; `None`: no longer.
    Pause(PlatformName, Option<bool>),
}

/// What became of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// All were made; this is the version now.
    Done(String),
    /// None was: somebody else changed something meanwhile. Read and decide again.
    Conflict,
    /// None was: there would be more fields than [`Registrations`] may have.
    Full,
}

impl Queue {
    /// The version of what is registered, and Redis's time.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn registrations_version(&self) -> Result<(Option<String>, Millis), CallError> {
        let mut look = redis::pipe();
        look.add_command(version()).add_command(cmd("TIME"));
        let (version, (seconds, micros)): (Option<String>, (i64, i64)) =
            self.connection.pipeline(&look).await?;
        Ok((version, seconds * 1000 + micros / 1000))
    }

    /// All that is registered.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn registrations(&self) -> Result<Registrations, CallError> {
        let fields: Vec<(Vec<u8>, Vec<u8>)> =
            self.connection.query(cmd("HGETALL").arg(REGISTRATIONS)).await?;
        Ok(Registrations::read(fields))
    }

    /// Makes `changes`, all or none, if `version` is still the one that was looked at.
    ///
    /// # Errors
    /// When Redis did not answer; after [`CallError::Unknown`] they may have been made.
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
            _ => {
                Err(CallError::unexpected_reply("change_registrations replied with something else"))
            }
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
