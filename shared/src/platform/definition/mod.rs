//! Compiles a platform definition from TOML to a checked [`Platform`].
//!
//! # Guarantees
//!
//! - All problems of a definition are reported at once, each with file, key and reason
//!   (`compile_reports_all_problems_at_once`).
//! - A `Platform` is returned only if there is no problem.
//! - Unknown keys are refused, never ignored (`unknown_keys_are_refused_at_every_level`).
//!
//! # Design
//!
//! A definition is merged into a bundled one: its own (`[platforms.mux]`), its `preset`, or
//! `generic`. See `merge`.

mod effects;
mod event;
pub mod grammar;
mod handshake;
mod merge;
mod signature;
pub(crate) mod syntax;
mod table_reader;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

pub(crate) use self::syntax::{duration, secret_ref};
pub(crate) use self::table_reader::{ProblemReport, TableReader, child};
use super::types::{
    CredentialRef, InvalidRequestPolicy, MAX_RESULT_WAIT, MissingSession, Platform, PlatformName,
    PlatformSource, RateLimit, SecretRef, SecretRefs, SessionScope,
};
use crate::event::MAX_EVENT_TYPE_BYTES;

/// Maximum number of event types in one section of a definition.
const MAX_TYPES: usize = 1000;
/// Maximum number of secrets at a time. A rotation needs two.
const MAX_SECRETS: usize = 16;
/// Maximum number of aliases of a platform.
const MAX_ALIASES: usize = 16;
/// Highest limit per minute, and largest burst. The limiter counts in microseconds.
const MAX_RATE_PER_MINUTE: u32 = 60_000_000;
/// Limit per minute if neither the definition nor its preset has one.
const DEFAULT_RATE_PER_MINUTE: u32 = 100;
/// Longest time in hours for which duplicates are remembered.
const MAX_DEDUP_HOURS: u32 = 366 * 24;

/// Words that are no platform names, because paths or labels use them.
const RESERVED_NAMES: [&str; 11] = [
    "register",
    "metrics",
    "stats",
    "platforms",
    "sessions",
    "events",
    "out",
    "test",
    "trigger",
    "status",
    "unknown",
];

/// A definition to compile.
pub(super) struct Definition<'a> {
    /// Key of its table in the file.
    pub(super) key: String,
    /// Canonical name of the platform.
    pub(super) name: PlatformName,
    /// Source of the definition.
    pub(super) source: PlatformSource,
    /// The whole definition, merged with its preset.
    pub(super) table: Table,
    /// Folder of relative secret paths.
    pub(super) folder: Option<&'a Path>,
}

/// Parses a name that a user may give to a platform.
pub(super) fn platform_name(text: &str) -> Result<PlatformName, String> {
    let name = PlatformName::new(text).map_err(|reason| reason.to_string())?;
    if RESERVED_NAMES.contains(&text) {
        return Err("is a reserved word; choose another name".to_owned());
    }
    Ok(name)
}

/// Merges the user's definition of another platform into the bundled `preset`.
pub(super) fn from_preset(preset: Table, over: Table) -> Table {
    merge::definition(merge::as_preset(preset), over)
}

/// Merges the user's definition of a bundled platform into the bundled one.
pub(super) fn overridden(bundled: Table, over: Table) -> Table {
    merge::definition(bundled, over)
}

/// Compiles a definition. Returns `None` after at least one problem in `report`.
pub(super) fn compile(definition: Definition<'_>, report: &ProblemReport) -> Option<Platform> {
    let before = report.count();
    let Definition { key, name, source, table, folder } = definition;
    let reserved = source == PlatformSource::Reserved;
    let credentials = signature::takes_credentials(table.get("signature"));
    let mut section = TableReader::new(key, table, report);
    // The merge has already read the preset.
    section.take("preset");

    for table in ["signature", "event"] {
        if !section.has(table) {
            section.problem(table, "is missing");
        }
    }
    let scheme = section.table("signature").and_then(signature::read);
    let event = section.table("event").and_then(|event| event::read(event, scheme.as_ref()));
    let context = handshake::HandshakeContext { credentials, source, folder };
    let handshake =
        section.table("handshake").and_then(|handshake| handshake::read(handshake, context));
    let missing_session =
        section.word("missing_session", missing_session).unwrap_or(MissingSession::Create);
    let effects = section.table("effects").map(|effects| {
        let event = event.as_ref().map(|(event, _)| event);
        effects::read(effects, &effects::EffectContext { event, missing_session, reserved })
    });
    let enabled = section.boolean("enabled").unwrap_or(true);
    let secrets =
        secrets(&mut section, credentials, folder, source == PlatformSource::File && enabled);
    let rate =
        section.integer("rate_limit", 1..=MAX_RATE_PER_MINUTE).unwrap_or(DEFAULT_RATE_PER_MINUTE);
    let burst = section.integer("burst", 1..=MAX_RATE_PER_MINUTE).unwrap_or(rate);
    let limits = limits(&mut section);
    let event_types = event_types(&mut section);
    let aliases = aliases(&mut section, &name);
    let label = section.word("label", platform_name).unwrap_or_else(|| name.clone());
    let paused = section.boolean("paused").unwrap_or(false);
    let ack_status = section.parse("ack_status", |value| {
        status(&value, |code| (200..=299).contains(&code))
            .ok_or("must be a status from 200 to 299".into())
    });
    let busy_status = section.parse("busy_status", |value| {
        let fits = status(&value, |code| code == 429 || (500..=599).contains(&code));
        fits.ok_or("must be 429, or a status from 500 to 599".into())
    });
    // If a provider takes a 4xx as final, a refused event is lost.
    let by_status = if busy_status.is_some_and(|code| code >= 500) {
        InvalidRequestPolicy::Keep
    } else {
        InvalidRequestPolicy::Refuse
    };
    let invalid = section.word("invalid", invalid_requests).unwrap_or(by_status);
    let wait = section.parse("wait", |value| {
        let wait = value.as_str().and_then(|text| duration(text).ok());
        wait.filter(|wait| *wait <= MAX_RESULT_WAIT)
            .ok_or_else(|| format!("must be a duration of at most {}s", MAX_RESULT_WAIT.as_secs()))
    });
    let dedup_hours = section.integer("dedup_ttl_hours", 1..=MAX_DEDUP_HOURS);
    let session_scope = section.word("session_scope", session_scope).unwrap_or(SessionScope::Own);
    section.finish();

    let (event, schemas) = event?;
    let platform = Platform {
        name,
        aliases,
        label,
        source,
        enabled,
        paused,
        scheme: scheme?,
        secrets: secrets?,
        rate_limit: RateLimit { per_minute: (!reserved).then_some(rate), burst },
        limits,
        event_types,
        ack_status: ack_status.unwrap_or(202),
        busy_status,
        invalid,
        dedup_ttl: dedup_hours.map(|hours| Duration::from_secs(u64::from(hours) * 3600)),
        wait,
        missing_session,
        session_scope,
        handshake,
        event,
        schemas,
        effects: effects.unwrap_or_default(),
    };
    (report.count() == before).then_some(platform)
}

fn event_type(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_EVENT_TYPE_BYTES {
        return Err(format!("an event type must be 1 to {MAX_EVENT_TYPE_BYTES} bytes"));
    }
    Ok(())
}

fn missing_session(text: &str) -> Result<MissingSession, &'static str> {
    match text {
        "create" => Ok(MissingSession::Create),
        "retry" => Ok(MissingSession::Retry),
        _ => Err("must be one of: create retry"),
    }
}

fn invalid_requests(text: &str) -> Result<InvalidRequestPolicy, &'static str> {
    match text {
        "keep" => Ok(InvalidRequestPolicy::Keep),
        "refuse" => Ok(InvalidRequestPolicy::Refuse),
        _ => Err("must be one of: keep refuse"),
    }
}

fn session_scope(text: &str) -> Result<SessionScope, &'static str> {
    match text {
        "own" => Ok(SessionScope::Own),
        "shared" => Ok(SessionScope::Shared),
        _ => Err("must be one of: own shared"),
    }
}

fn status(value: &Value, fits: impl Fn(u16) -> bool) -> Option<u16> {
    value.as_integer().and_then(|code| u16::try_from(code).ok()).filter(|code| fits(*code))
}

fn event_types(section: &mut TableReader<'_>) -> Option<HashSet<String>> {
    let none = section.is_empty_list("event_types");
    let types = section.words("event_types", |text| event_type(text).map(|()| text.to_owned()))?;
    if none {
        section.problem(
            "event_types",
            "is empty, so every event would be ignored; remove it to accept all types",
        );
    }
    if types.len() > MAX_TYPES {
        section.problem("event_types", format!("must be at most {MAX_TYPES} types"));
    }
    Some(types.into_iter().collect())
}

/// Reads the limits by event type.
fn limits(section: &mut TableReader<'_>) -> HashMap<String, u32> {
    let Some(table) = section.table("limits") else { return HashMap::new() };
    let (report, path) = (table.report(), table.path().to_owned());
    let entries = table.into_entries();
    if entries.len() > MAX_TYPES {
        report.add(&path, format!("must be at most {MAX_TYPES} types"));
    }
    let limit = |(kind, value): (String, Value)| {
        let per_minute = value.as_integer().and_then(|n| u32::try_from(n).ok());
        let read = event_type(&kind).and_then(|()| {
            let fits = per_minute.filter(|n| (1..=MAX_RATE_PER_MINUTE).contains(n));
            fits.ok_or_else(|| {
                format!("must be a whole number from 1 to {MAX_RATE_PER_MINUTE}: events a minute")
            })
        });
        match read {
            Ok(per_minute) => Some((kind, per_minute)),
            Err(reason) => {
                report.add(&child(&path, &kind), reason);
                None
            }
        }
    };
    entries.into_iter().filter_map(limit).collect()
}

fn aliases(section: &mut TableReader<'_>, name: &PlatformName) -> Vec<PlatformName> {
    let aliases = section.words("aliases", platform_name).unwrap_or_default();
    if aliases.len() > MAX_ALIASES {
        section.problem("aliases", format!("must be at most {MAX_ALIASES} names"));
    }
    let mut seen = HashSet::from([name]);
    for alias in &aliases {
        if !seen.insert(alias) {
            section.problem("aliases", format!("{alias} is already a name of this platform"));
        }
    }
    aliases
}

/// Reads the references to secrets. The scheme decides which of the two keys holds them.
fn secrets(
    section: &mut TableReader<'_>,
    credentials: Option<bool>,
    folder: Option<&Path>,
    needed: bool,
) -> Option<SecretRefs> {
    let Some(credentials) = credentials else {
        // Without a known scheme, either key may be the right one.
        section.take("secrets");
        section.take("credentials");
        return None;
    };
    let (right, wrong) =
        if credentials { ("credentials", "secrets") } else { ("secrets", "credentials") };
    let none = !section.has(right) || section.is_empty_list(right);
    if section.take(wrong).is_some() {
        section.problem(wrong, format!("this signature scheme is verified with `{right}`"));
    } else if none && (needed || section.has(right)) {
        section.problem(right, "is missing; it refers to the secrets that verify requests");
    }
    let list = section.list(right).unwrap_or_default();
    if list.len() > MAX_SECRETS {
        section.problem(right, format!("must be at most {MAX_SECRETS}"));
    }
    let key = section.key(right);
    let parse = |text: &str| secret_ref(text, folder);
    if !credentials {
        return Some(SecretRefs::Secrets(table_reader::words(&key, list, section.report(), parse)));
    }
    let pair =
        |(index, value)| credential(format!("{key}[{index}]"), value, section.report(), folder);
    Some(SecretRefs::Credentials(list.into_iter().enumerate().filter_map(pair).collect()))
}

fn credential(
    key: String,
    value: Value,
    report: &ProblemReport,
    folder: Option<&Path>,
) -> Option<CredentialRef> {
    let Value::Table(table) = value else {
        report.add(&key, "must be a table: { key = \"env:…\", secret = \"env:…\" }");
        return None;
    };
    let mut section = TableReader::new(key, table, report);
    let mut part = |name: &'static str| -> Option<SecretRef> {
        if !section.has(name) {
            section.problem(name, "is missing");
        }
        section.word(name, |text| secret_ref(text, folder))
    };
    let (key, secret) = (part("key"), part("secret"));
    section.finish();
    Some(CredentialRef { key: key?, secret: secret? })
}
