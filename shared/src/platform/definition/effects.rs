//! Reads `[platforms.NAME.effects]`: the effect of each event type.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use toml::{Table, Value};

use super::event::pointers;
use super::table_reader::{TableReader, child, words};
use super::{MAX_TYPES, event_type, syntax};
use crate::platform::types::{
    ChatColumn, ContentColumn, ContentState, DataMember, Effect, EffectSpec, EventSpec, JobColumn,
    MissingSession, Pointer, RecordingState, SessionColumn,
};

/// Longest status of a job, and longest member name in `data` of a session, in bytes.
const MAX_WORD_BYTES: usize = 64;

/// Settings that the effects depend on.
pub(super) struct EffectContext<'a> {
    /// Event section of the platform, unless it has problems.
    pub(super) event: Option<&'a EventSpec>,
    /// Policy for an event without a session.
    pub(super) missing_session: MissingSession,
    /// Set if `session.announce` is allowed.
    pub(super) reserved: bool,
}

/// Reads the section. Effects with problems are reported and left out.
pub(super) fn read(
    section: TableReader<'_>,
    context: &EffectContext<'_>,
) -> HashMap<String, EffectSpec> {
    let report = section.report();
    let key = section.path().to_owned();
    let entries = section.into_entries();
    if entries.len() > MAX_TYPES {
        report.add(&key, format!("must be at most {MAX_TYPES} types"));
    }
    let mut effects = HashMap::with_capacity(entries.len());
    for (kind, value) in entries {
        let key = child(&key, &kind);
        let valid = words(&key, vec![kind.as_str().into()], report, event_type);
        match value {
            Value::Table(table) => {
                let effect = read_effect(TableReader::new(key, table, report), context);
                if let (Some(effect), false) = (effect, valid.is_empty()) {
                    effects.insert(kind, effect);
                }
            }
            _ => report.add(&key, "must be a table such as { effect = \"log\" }, or false"),
        }
    }
    effects
}

fn read_effect(mut section: TableReader<'_>, context: &EffectContext<'_>) -> Option<EffectSpec> {
    let report = section.report();
    let before = report.count();
    if !section.has("effect") {
        section.problem("effect", "is missing");
    }
    let session = pointers(&mut section, "session");
    let live_stream_id = pointers(&mut section, "live_stream_id");
    let effect = match section.text("effect")?.as_str() {
        "session.status" => {
            if report.count() == before {
                check_session(
                    &section,
                    context,
                    session.as_deref(),
                    live_stream_id.as_deref(),
                    true,
                );
            }
            let status = required(&mut section, "status");
            let set = set(&mut section, |_| false);
            let data = members(&mut section);
            status.map(|status| Effect::SessionStatus { status, set, data })
        }
        "session.viewers" => {
            if report.count() == before {
                check_session(
                    &section,
                    context,
                    session.as_deref(),
                    live_stream_id.as_deref(),
                    true,
                );
            }
            let set = viewers(&mut section);
            let data = members(&mut section);
            Some(Effect::SessionViewers { set, data })
        }
        "recording" => {
            let state: Option<RecordingState> = required(&mut section, "state");
            let id = id(&mut section);
            let set = set(&mut section, |_| false);
            state.map(|state| Effect::Recording { state, id, set })
        }
        "content" => {
            let state: Option<ContentState> = required(&mut section, "state");
            let id = id(&mut section);
            let set = set(&mut section, |column| *column == ContentColumn::Data);
            state.map(|state| Effect::Content { state, id, set })
        }
        "job" => {
            let status = status_text(&mut section);
            let id = id(&mut section);
            let set = set(&mut section, |column| *column == JobColumn::Data);
            status.map(|status| Effect::Job { status, id, set })
        }
        "chat" => {
            if report.count() == before {
                check_session(
                    &section,
                    context,
                    session.as_deref(),
                    live_stream_id.as_deref(),
                    false,
                );
            }
            let id = id(&mut section);
            let set: Vec<(ChatColumn, _)> = set(&mut section, |_| false);
            Some(Effect::Chat { id, set })
        }
        "session.announce" if context.reserved => Some(Effect::SessionAnnounce),
        "log" => Some(Effect::Log),
        _ => {
            section.problem(
                "effect",
                "must be one of: session.status session.viewers recording content job chat log",
            );
            return None;
        }
    };
    section.finish();
    effect.filter(|_| report.count() == before).map(|effect| EffectSpec {
        effect,
        session,
        live_stream_id,
    })
}

fn check_session(
    section: &TableReader<'_>,
    context: &EffectContext<'_>,
    session: Option<&[Pointer]>,
    live_stream_id: Option<&[Pointer]>,
    creates: bool,
) {
    let Some(event) = context.event else { return };
    if !session.unwrap_or(&event.session).is_empty() {
        return;
    }
    if live_stream_id.unwrap_or(&event.live_stream_id).is_empty() {
        section.problem(
            "session",
            "is missing here and under `event`; it locates the session of the event",
        );
    } else if creates && context.missing_session == MissingSession::Create {
        section.problem(
            "session",
            "is missing here and under `event`; only a room id can create a session. Name it, or \
             set `missing_session = \"retry\"`",
        );
    }
}

fn required<T: FromStr<Err: Display>>(
    section: &mut TableReader<'_>,
    name: &'static str,
) -> Option<T> {
    if !section.has(name) {
        section.problem(name, "is missing");
    }
    section.word(name, str::parse)
}

/// Reads the status of a job. Any word is allowed, since every sender has its own.
fn status_text(section: &mut TableReader<'_>) -> Option<String> {
    if !section.has("status") {
        section.problem("status", "is missing");
    }
    section.word("status", |text| check_word(text).map(|()| text.to_owned()))
}

/// Reads `set` of `session.viewers`.
fn viewers(section: &mut TableReader<'_>) -> Vec<(SessionColumn, Vec<Pointer>)> {
    let set: Vec<(SessionColumn, _)> = set(section, |_| false);
    let key = section.key("set");
    for (column, _) in &set {
        if !matches!(column, SessionColumn::ViewerCount | SessionColumn::PeakViewers) {
            section
                .report()
                .add(&child(&key, column.as_str()), "must be one of: viewer_count peak_viewers");
        }
    }
    if !set.iter().any(|(column, _)| *column == SessionColumn::ViewerCount) {
        section
            .report()
            .add(&child(&key, "viewer_count"), "is missing; it locates the number of viewers");
    }
    set
}

/// Reads `data = { member = pointer(s) }`.
fn members(section: &mut TableReader<'_>) -> Vec<DataMember> {
    read_pointers(section, "data", |name| check_word(name).map(|()| name.to_owned()), |_| false)
}

fn check_word(text: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if (1..=MAX_WORD_BYTES).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("must be 1 to {MAX_WORD_BYTES} letters, digits and '_'"))
}

fn id(section: &mut TableReader<'_>) -> Vec<Pointer> {
    let id = pointers(section, "id");
    if id.as_ref().is_none_or(Vec::is_empty) {
        section.problem("id", "is missing; it locates the id");
    }
    id.unwrap_or_default()
}

/// Reads `set = { column = pointer(s) }`. A column for which `allows_root` is true may take the
/// whole body, `""`.
fn set<C: FromStr<Err: Display>>(
    section: &mut TableReader<'_>,
    allows_root: impl Fn(&C) -> bool,
) -> Vec<(C, Vec<Pointer>)> {
    read_pointers(
        section,
        "set",
        |name| name.parse().map_err(|reason: C::Err| reason.to_string()),
        allows_root,
    )
}

/// Reads a table of names with one or more pointers each.
fn read_pointers<N>(
    section: &mut TableReader<'_>,
    table: &'static str,
    parse: impl Fn(&str) -> Result<N, String>,
    allows_root: impl Fn(&N) -> bool,
) -> Vec<(N, Vec<Pointer>)> {
    let Some(entries) = section.table(table) else { return Vec::new() };
    let report = section.report();
    let key = section.key(table);
    let entries: Table = entries.into_entries();
    let mut parsed = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let key = child(&key, &name);
        let name = match parse(&name) {
            Ok(name) => name,
            Err(reason) => {
                report.add(&key, reason);
                continue;
            }
        };
        let list = match value {
            Value::Array(list) => list,
            one => vec![one],
        };
        if list.is_empty() {
            report.add(&key, "must be one or more pointers");
        }
        let from = words(&key, list, report, |text| match text {
            "" if allows_root(&name) => Ok(Pointer { segments: Vec::new() }),
            _ => syntax::pointer(text),
        });
        parsed.push((name, from));
    }
    parsed
}
