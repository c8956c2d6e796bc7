//! Plans an event from its envelope and its platform's definition.

use std::borrow::Cow;

use crate::event::Envelope;
use crate::json::time::UtcOffset;
use crate::json::{self, Document, JsonNode};
use crate::platform::{
    ChatColumn, ContentColumn, DataMember, Effect, EffectSpec, JobColumn, Platform, Pointer,
    RecordingColumn, SessionColumn,
};

use super::change::{
    ChatField, ContentField, JobField, PlannedChange, PlannedEvent, RecordingField,
    SessionAnnouncement, SessionConfig, SessionField,
};
use super::column_reader::{ColumnReader, ColumnValue};
use super::invalid_event::{InvalidEventError, MAX_KEY_BYTES, RequiredValue};
use super::warning::{ColumnWarningReason, LIVE_STREAM_ID, ROOM_ID};
use super::{json_value, value};

/// Plans the change that `envelope` makes according to `platform`'s definition.
///
/// # Errors
/// The event can never be applied: it is not JSON, or a [`RequiredValue`] is missing or unusable.
pub fn plan(platform: &Platform, envelope: &Envelope) -> Result<PlannedEvent, InvalidEventError> {
    value::storable(&envelope.event_id, RequiredValue::EventId)?;
    value::storable(&envelope.event_type, RequiredValue::EventType)?;
    value::in_range(envelope.occurred_at, RequiredValue::OccurredAt)?;
    value::in_range(envelope.received_at, RequiredValue::ReceivedAt)?;
    let text = json::text(&envelope.body);
    let document = Document::parse_text(&text).map_err(InvalidEventError::Body)?;
    let mut body = ColumnReader::new(&document);
    let spec = platform.effects.get(&envelope.event_type);
    let change = spec.map_or(Ok(PlannedChange::Log), |spec| {
        change(&mut body, &spec.effect, platform.event.time_zone)
    })?;
    let (room, live_stream_id) = session(&mut body, platform, spec, &change)?;
    Ok(PlannedEvent {
        event_id: envelope.event_id.clone(),
        event_type: envelope.event_type.clone(),
        occurred_at: envelope.occurred_at,
        received_at: envelope.received_at,
        attempt: envelope.attempt,
        replayed: envelope.replays > 0,
        edited: envelope.edited.clone(),
        order: envelope.order(),
        room,
        live_stream_id,
        change,
        warnings: body.warnings,
    })
}

/// Finds the room id and the live stream id of the session that `change` concerns.
fn session(
    body: &mut ColumnReader<'_, '_>,
    platform: &Platform,
    spec: Option<&EffectSpec>,
    change: &PlannedChange,
) -> Result<(Option<String>, Option<String>), InvalidEventError> {
    if matches!(change, PlannedChange::Content { .. } | PlannedChange::Job { .. }) {
        return Ok((None, None));
    }
    let rooms = spec.and_then(|spec| spec.session.as_deref()).unwrap_or(&platform.event.session);
    let streams = spec
        .and_then(|spec| spec.live_stream_id.as_deref())
        .unwrap_or(&platform.event.live_stream_id);
    let (room, stream) = (body.key(rooms), body.key(streams));
    let named = match change {
        PlannedChange::Announce(_) => matches!(room, Ok(Some(_))),
        PlannedChange::Status { .. } | PlannedChange::Viewers { .. } => {
            matches!(room, Ok(Some(_))) || matches!(stream, Ok(Some(_)))
        }
        PlannedChange::Recording { .. }
        | PlannedChange::Content { .. }
        | PlannedChange::Job { .. }
        | PlannedChange::Chat { .. }
        | PlannedChange::Log => true,
    };
    if !named {
        let unusable = |found, what| match found {
            Err(reason) => Err(InvalidEventError::key(what, reason)),
            Ok(_) => Ok(()),
        };
        unusable(room, RequiredValue::RoomId)?;
        unusable(stream, RequiredValue::LiveStreamId)?;
        return Err(InvalidEventError::Missing { what: RequiredValue::Session });
    }
    let mut usable = |found: Result<Option<(_, String)>, ColumnWarningReason>, column| match found {
        Ok(found) => found.map(|(_, key)| key),
        Err(reason) => {
            // A logged event has no effect on a session, so its session causes no warning.
            if !matches!(change, PlannedChange::Log) {
                body.warn(column, reason);
            }
            None
        }
    };
    Ok((usable(room, ROOM_ID), usable(stream, LIVE_STREAM_ID)))
}

fn change(
    body: &mut ColumnReader<'_, '_>,
    effect: &Effect,
    time_zone: UtcOffset,
) -> Result<PlannedChange, InvalidEventError> {
    Ok(match effect {
        Effect::SessionStatus { status, set, data } => {
            let read = |column, node: &JsonNode<'_>| session_field(column, node, time_zone);
            PlannedChange::Status { status: *status, set: session_fields(body, set, data, read) }
        }
        Effect::SessionViewers { set, data } => {
            let read = |column, node: &JsonNode<'_>| viewers_field(column, node, time_zone);
            let set = session_fields(body, set, data, read);
            if !set.iter().any(|field| matches!(field, SessionField::ViewerCount(_))) {
                return Err(no_viewer_count(body));
            }
            PlannedChange::Viewers { set }
        }
        Effect::Recording { state, id, set } => PlannedChange::Recording {
            id: body.required(id, RequiredValue::RecordingId)?.1,
            state: *state,
            set: body.columns(set, 0, RecordingColumn::as_str, recording_field),
        },
        Effect::Content { state, id, set } => PlannedChange::Content {
            id: body.required(id, RequiredValue::ContentId)?.1,
            state: *state,
            set: body.columns(set, 0, ContentColumn::as_str, content_field),
        },
        Effect::Job { status, id, set } => {
            let (at, id) = body.required(id, RequiredValue::JobId)?;
            PlannedChange::Job { id, status: status.clone(), set: job_fields(body, at, set) }
        }
        Effect::Chat { id, set } => PlannedChange::Chat {
            id: body.required(id, RequiredValue::MessageId)?.1,
            set: body.columns(set, 0, ChatColumn::as_str, |column, node| {
                chat_field(column, node, time_zone)
            }),
        },
        Effect::SessionAnnounce => PlannedChange::Announce(announcement(body)?),
        Effect::Log => PlannedChange::Log,
    })
}

fn no_viewer_count(body: &ColumnReader<'_, '_>) -> InvalidEventError {
    let what = RequiredValue::ViewerCount;
    if body.warnings.iter().any(|warning| warning.column == SessionColumn::ViewerCount.as_str()) {
        InvalidEventError::WrongType { what, expected: "a count" }
    } else {
        InvalidEventError::Missing { what }
    }
}

fn session_fields(
    body: &mut ColumnReader<'_, '_>,
    set: &[(SessionColumn, Vec<Pointer>)],
    data: &[DataMember],
    read: impl Fn(SessionColumn, &JsonNode<'_>) -> ColumnValue<SessionField>,
) -> Vec<SessionField> {
    let mut fields = body.columns(set, data.len(), SessionColumn::as_str, read);
    for (name, at) in data {
        let found = body.column(
            || Cow::Owned(format!("data.{name}")),
            at,
            |_, node| json_value::scalar(node),
        );
        fields.extend(found.map(|(_, json)| SessionField::Data { name: name.clone(), json }));
    }
    fields
}

/// Reads a job's columns. Unlike elsewhere, an explicit null counts: it clears the job's error.
fn job_fields(
    body: &mut ColumnReader<'_, '_>,
    id: &Pointer,
    set: &[(JobColumn, Vec<Pointer>)],
) -> Vec<JobField> {
    let mut fields = Vec::with_capacity(set.len());
    let mut used: Vec<&Pointer> = Vec::with_capacity(set.len() + 1);
    used.push(id);
    let mut whole = None;
    for (column, at) in set {
        if *column == JobColumn::Data {
            whole = Some(at);
            continue;
        }
        let found = body.column(|| column.as_str().into(), at, |_, node| job_field(*column, node));
        if let Some((pointer, field)) = found {
            used.push(pointer);
            fields.push(field);
        }
    }
    // `data` keeps the members that have no column, or whose values their columns cannot hold.
    let rest = whole.and_then(|at| {
        let known = |whole: &Pointer| {
            used.iter().filter_map(|used| member(whole, used)).collect::<Vec<_>>()
        };
        body.column(
            || JobColumn::Data.as_str().into(),
            at,
            |pointer, node| json_value::rest(node, &known(pointer)),
        )
    });
    fields.extend(rest.map(|(_, json)| JobField::Data(json)));
    fields
}

/// Name of the member of the object at `whole` to which `pointer` leads, if it does.
fn member<'p>(whole: &Pointer, pointer: &'p Pointer) -> Option<&'p str> {
    match pointer.segments.strip_prefix(whole.segments.as_slice()) {
        Some([member]) => Some(member),
        _ => None,
    }
}

fn job_field(column: JobColumn, node: &JsonNode<'_>) -> ColumnValue<JobField> {
    match column {
        JobColumn::Progress => or_null(node, value::progress(node)).map(JobField::Progress),
        JobColumn::CurrentStep => {
            or_null(node, value::text(node).map(Some)).map(JobField::CurrentStep)
        }
        JobColumn::VideoUrl => or_null(node, value::text(node).map(Some)).map(JobField::VideoUrl),
        JobColumn::Error => or_null(node, value::wording(node).map(Some)).map(JobField::Error),
        JobColumn::RetryCount => or_null(node, value::count(node)).map(JobField::RetryCount),
        JobColumn::Data => json_value::json(node).map(JobField::Data),
    }
}

/// Reads a null as an empty column, unless another place has a value.
fn or_null<T>(node: &JsonNode<'_>, value: ColumnValue<Option<T>>) -> ColumnValue<Option<T>> {
    if node.is_null() { ColumnValue::Unknown(None) } else { value }
}

fn session_field(
    column: SessionColumn,
    node: &JsonNode<'_>,
    time_zone: UtcOffset,
) -> ColumnValue<SessionField> {
    match column {
        SessionColumn::Title => value::text(node).map(SessionField::Title),
        SessionColumn::StreamerId => value::text(node).map(SessionField::StreamerId),
        SessionColumn::AppId => value::text(node).map(SessionField::AppId),
        SessionColumn::ViewerCount => value::count(node).map(SessionField::ViewerCount),
        SessionColumn::PeakViewers => value::count(node).map(SessionField::PeakViewers),
        SessionColumn::DurationSeconds => value::number(node).map(SessionField::DurationSeconds),
        SessionColumn::ErrorCode => value::text(node).map(SessionField::ErrorCode),
        SessionColumn::ErrorMessage => value::text(node).map(SessionField::ErrorMessage),
        SessionColumn::StartedAt => value::instant(node, time_zone).map(SessionField::StartedAt),
        SessionColumn::EndedAt => value::instant(node, time_zone).map(SessionField::EndedAt),
    }
}

/// Reads a column of `session.viewers`. Unlike elsewhere, a null viewer count means unknown.
fn viewers_field(
    column: SessionColumn,
    node: &JsonNode<'_>,
    time_zone: UtcOffset,
) -> ColumnValue<SessionField> {
    match column {
        SessionColumn::ViewerCount => {
            or_null(node, value::count(node)).map(SessionField::ViewerCount)
        }
        _ => session_field(column, node, time_zone),
    }
}

fn recording_field(column: RecordingColumn, node: &JsonNode<'_>) -> ColumnValue<RecordingField> {
    match column {
        RecordingColumn::Url => value::text(node).map(RecordingField::Url),
        RecordingColumn::DurationSeconds => {
            value::number(node).map(RecordingField::DurationSeconds)
        }
        RecordingColumn::SizeBytes => value::count(node).map(RecordingField::SizeBytes),
    }
}

fn content_field(column: ContentColumn, node: &JsonNode<'_>) -> ColumnValue<ContentField> {
    match column {
        ContentColumn::Title => value::text(node).map(ContentField::Title),
        ContentColumn::ContentType => value::text(node).map(ContentField::ContentType),
        ContentColumn::Data => json_value::json(node).map(ContentField::Data),
    }
}

fn chat_field(
    column: ChatColumn,
    node: &JsonNode<'_>,
    time_zone: UtcOffset,
) -> ColumnValue<ChatField> {
    match column {
        ChatColumn::UserId => value::text(node).map(ChatField::UserId),
        ChatColumn::UserName => value::text(node).map(ChatField::UserName),
        ChatColumn::Message => value::wording(node).map(ChatField::Message),
        ChatColumn::SentAt => value::instant(node, time_zone).map(ChatField::SentAt),
    }
}

/// Reads an announcement. Unlike an effect's columns, one unusable value refuses all of it.
fn announcement(body: &ColumnReader<'_, '_>) -> Result<SessionAnnouncement, InvalidEventError> {
    let given = |name: &str| body.document.root().get(name).filter(|node| !node.is_null());
    let status = given("status").map(|node| {
        let wrong = InvalidEventError::WrongType {
            what: RequiredValue::AnnouncedStatus,
            expected: "a session status",
        };
        node.as_str().and_then(|text| text.parse().ok()).ok_or(wrong)
    });
    let unusable = |reason| InvalidEventError::key(RequiredValue::AnnouncedStream, reason);
    let live_stream_id = given("live_stream_id").map(|node| value::key(node).map_err(unusable));
    Ok(SessionAnnouncement {
        live_stream_id: live_stream_id.transpose()?.flatten(),
        status: status.transpose()?,
        config: given("config").map(config).transpose()?,
    })
}

fn config(node: &JsonNode<'_>) -> Result<SessionConfig, InvalidEventError> {
    let what = RequiredValue::AnnouncedConfig;
    let json = match json_value::json(node) {
        ColumnValue::Value(json) => json,
        ColumnValue::Replaced(_) => return Err(InvalidEventError::Nul { what }),
        ColumnValue::Unknown(_) | ColumnValue::Absent | ColumnValue::Unusable(_) => {
            let expected = "JSON whose numbers have at most 1000 digits";
            return Err(InvalidEventError::WrongType { what, expected });
        }
    };
    // Databases index this member as text, for every JSON type. So its length is always bounded.
    let stream = node
        .get("egress")
        .and_then(|egress| egress.get("live_stream_id"))
        .filter(|id| !id.is_null());
    if stream.is_some_and(|id| id.raw().len() > MAX_KEY_BYTES && value::key(id).is_err()) {
        return Err(InvalidEventError::TooLong {
            what: RequiredValue::AnnouncedEgress,
            max: MAX_KEY_BYTES,
        });
    }
    let live_stream_id = stream.and_then(|id| value::key(id).ok().flatten());
    Ok(SessionConfig { json, live_stream_id })
}
