//! From an envelope and its platform's definition to a planned event.

use shared::event::Envelope;
use shared::json::{Document, Node};
use shared::platform::{ContentColumn, Effect, EffectSpec, Platform, Pointer, RecordingColumn, SessionColumn};

use super::change::{
    Announcement, Change, Config, ContentField, InvalidEvent, MAX_KEY_BYTES, Planned, RecordingField, SessionField,
};
use super::value;

/// Decides what `envelope` does, by `platform`'s definition alone.
///
/// # Errors
/// When the event can never be applied, however often it is tried: not JSON, a value of another type than its column,
/// an id missing or over-long, a NUL character.
pub fn plan(platform: &Platform, envelope: &Envelope) -> Result<Planned, InvalidEvent> {
    value::storable(&envelope.event_id, "the event id")?;
    value::storable(&envelope.event_type, "the event type")?;
    value::in_range(envelope.occurred_at, "the event's time")?;
    value::in_range(envelope.received_at, "the time of arrival")?;
    let document = Document::parse(&envelope.body).map_err(InvalidEvent::Body)?;
    let spec = platform.effects.get(&envelope.event_type);
    let change = spec.map_or(Ok(Change::Log), |spec| change(&document, &spec.effect))?;
    let (room, live_stream_id) = match &change {
        Change::Log => {
            let (rooms, streams) = session_pointers(platform, spec);
            (lenient(&document, rooms), lenient(&document, streams))
        }
        // A content has no session.
        Change::Content { .. } => (None, None),
        Change::Status { .. } | Change::Announce(_) | Change::Recording { .. } => {
            let (rooms, streams) = session_pointers(platform, spec);
            (key(&document, rooms, "the room id")?, key(&document, streams, "the live stream id")?)
        }
    };
    let named = match &change {
        Change::Announce(_) => room.is_some(),
        Change::Status { .. } => room.is_some() || live_stream_id.is_some(),
        Change::Recording { .. } | Change::Content { .. } | Change::Log => true,
    };
    if !named {
        return Err(InvalidEvent::Missing { what: "the session" });
    }
    Ok(Planned {
        event_id: envelope.event_id.clone(),
        event_type: envelope.event_type.clone(),
        occurred_at: envelope.occurred_at,
        received_at: envelope.received_at,
        attempt: envelope.attempt,
        replayed: envelope.replays > 0,
        order: envelope.order(),
        room,
        live_stream_id,
        change,
    })
}

fn session_pointers<'p>(platform: &'p Platform, spec: Option<&'p EffectSpec>) -> (&'p [Pointer], &'p [Pointer]) {
    let rooms = spec.and_then(|spec| spec.session.as_deref()).unwrap_or(&platform.event.session);
    let streams = spec.and_then(|spec| spec.live_stream_id.as_deref()).unwrap_or(&platform.event.live_stream_id);
    (rooms, streams)
}

fn key(document: &Document<'_>, at: &[Pointer], what: &'static str) -> Result<Option<String>, InvalidEvent> {
    document.first(at).map_or(Ok(None), |node| value::key(node, what))
}

/// For the ledger only: what does not fit is left out, since nothing depends on it.
fn lenient(document: &Document<'_>, at: &[Pointer]) -> Option<String> {
    key(document, at, "").ok().flatten()
}

fn change(document: &Document<'_>, effect: &Effect) -> Result<Change, InvalidEvent> {
    Ok(match effect {
        Effect::SessionStatus { status, set } => {
            Change::Status { status: *status, set: fields(document, set, session_field)? }
        }
        Effect::Recording { state, id, set } => Change::Recording {
            id: required(document, id, "the recording id")?,
            state: *state,
            set: fields(document, set, recording_field)?,
        },
        Effect::Content { state, id, set } => Change::Content {
            id: required(document, id, "the content id")?,
            state: *state,
            set: fields(document, set, content_field)?,
        },
        Effect::SessionAnnounce => Change::Announce(announcement(document)?),
        Effect::Log => Change::Log,
    })
}

fn required(document: &Document<'_>, at: &[Pointer], what: &'static str) -> Result<String, InvalidEvent> {
    key(document, at, what)?.ok_or(InvalidEvent::Missing { what })
}

/// A column's value, if there is one.
type Field<T> = Result<Option<T>, InvalidEvent>;

fn fields<C: Copy, T>(
    document: &Document<'_>,
    set: &[(C, Vec<Pointer>)],
    read: impl Fn(C, &Node<'_>) -> Field<T>,
) -> Result<Vec<T>, InvalidEvent> {
    let present = set.iter().filter_map(|(column, at)| Some((*column, document.first(at)?)));
    present.filter_map(|(column, node)| read(column, node).transpose()).collect()
}

fn session_field(column: SessionColumn, node: &Node<'_>) -> Field<SessionField> {
    let what = column.as_str();
    Ok(Some(match column {
        SessionColumn::Title => SessionField::Title(value::text(node, what)?),
        SessionColumn::StreamerId => SessionField::StreamerId(value::text(node, what)?),
        SessionColumn::AppId => SessionField::AppId(value::text(node, what)?),
        SessionColumn::PeakViewers => SessionField::PeakViewers(value::count(node, what)?),
        SessionColumn::DurationSeconds => SessionField::DurationSeconds(value::number(node, what)?),
        SessionColumn::ErrorCode => SessionField::ErrorCode(value::text(node, what)?),
        SessionColumn::ErrorMessage => SessionField::ErrorMessage(value::text(node, what)?),
        SessionColumn::StartedAt => return Ok(value::instant(node, what)?.map(SessionField::StartedAt)),
        SessionColumn::EndedAt => return Ok(value::instant(node, what)?.map(SessionField::EndedAt)),
    }))
}

fn recording_field(column: RecordingColumn, node: &Node<'_>) -> Field<RecordingField> {
    let what = column.as_str();
    Ok(Some(match column {
        RecordingColumn::Url => RecordingField::Url(value::text(node, what)?),
        RecordingColumn::DurationSeconds => RecordingField::DurationSeconds(value::number(node, what)?),
        RecordingColumn::SizeBytes => RecordingField::SizeBytes(value::count(node, what)?),
    }))
}

fn content_field(column: ContentColumn, node: &Node<'_>) -> Field<ContentField> {
    let what = column.as_str();
    Ok(Some(match column {
        ContentColumn::Title => ContentField::Title(value::text(node, what)?),
        ContentColumn::ContentType => ContentField::ContentType(value::text(node, what)?),
        ContentColumn::Data => ContentField::Data(value::json(node, what)?),
    }))
}

fn announcement(document: &Document<'_>) -> Result<Announcement, InvalidEvent> {
    let given = |name: &str| document.root().get(name).filter(|node| !node.is_null());
    let status = given("status").map(|node| {
        let wrong = InvalidEvent::WrongType { what: "status", expected: "a session status" };
        node.as_str().and_then(|text| text.parse().ok()).ok_or(wrong)
    });
    let live_stream_id = given("live_stream_id").map(|node| value::key(node, "live_stream_id"));
    Ok(Announcement {
        live_stream_id: live_stream_id.transpose()?.flatten(),
        status: status.transpose()?,
        config: given("config").map(config).transpose()?,
    })
}

fn config(node: &Node<'_>) -> Result<Config, InvalidEvent> {
    let json = value::json(node, "config")?;
    // Databases index it as text whatever its type, so only the length is of interest where it is no text.
    let stream = node.get("egress").and_then(|egress| egress.get("live_stream_id")).filter(|id| !id.is_null());
    if stream.is_some_and(|id| id.raw().len() > MAX_KEY_BYTES && value::key(id, "").is_err()) {
        return Err(InvalidEvent::TooLong { what: "config.egress.live_stream_id", max: MAX_KEY_BYTES });
    }
    let live_stream_id = stream.and_then(|id| value::key(id, "").ok().flatten());
    Ok(Config { json, live_stream_id })
}
