//! From an envelope and its platform's definition to a planned event.

use crate::event::Envelope;
use crate::json::{Document, Node};
use crate::platform::{
    ChatColumn, ContentColumn, DataMember, Effect, EffectSpec, JobColumn, Platform, Pointer, RecordingColumn,
    SessionColumn,
};

use super::change::{
    Announcement, Change, ChatField, Config, ContentField, InvalidEvent, JobField, MAX_KEY_BYTES, Planned,
    RecordingField, SessionField,
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
        // These have no session.
        Change::Content { .. } | Change::Job { .. } => (None, None),
        Change::Status { .. }
        | Change::Viewers { .. }
        | Change::Announce(_)
        | Change::Recording { .. }
        | Change::Chat { .. } => {
            let (rooms, streams) = session_pointers(platform, spec);
            (key(&document, rooms, "the room id")?, key(&document, streams, "the live stream id")?)
        }
    };
    let named = match &change {
        Change::Announce(_) => room.is_some(),
        Change::Status { .. } | Change::Viewers { .. } | Change::Chat { .. } => {
            room.is_some() || live_stream_id.is_some()
        }
        Change::Recording { .. } | Change::Content { .. } | Change::Job { .. } | Change::Log => true,
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
        edited: envelope.edited.clone(),
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
        Effect::SessionStatus { status, set, data } => {
            Change::Status { status: *status, set: session_fields(document, set, data)? }
        }
        Effect::SessionViewers { set, data } => {
            let set = session_fields(document, set, data)?;
            if !set.iter().any(|field| matches!(field, SessionField::ViewerCount(_))) {
                return Err(InvalidEvent::Missing { what: "the number of viewers" });
            }
            Change::Viewers { set }
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
        Effect::Job { status, id, set } => Change::Job {
            status: status.clone(),
            set: job_fields(document, id, set)?,
            id: required(document, id, "the job id")?,
        },
        Effect::Chat { id, set } => {
            Change::Chat { id: required(document, id, "the message id")?, set: fields(document, set, chat_field)? }
        }
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

fn session_fields(
    document: &Document<'_>,
    set: &[(SessionColumn, Vec<Pointer>)],
    data: &[DataMember],
) -> Result<Vec<SessionField>, InvalidEvent> {
    let mut all = fields(document, set, session_field)?;
    for (name, at) in data {
        if let Some(node) = document.first(at) {
            all.push(SessionField::Data { name: name.clone(), json: value::scalar(node, "data")? });
        }
    }
    Ok(all)
}

/// Other than elsewhere, a null that stands there tells something: the job has no error (any more).
fn job_fields(
    document: &Document<'_>,
    id: &[Pointer],
    set: &[(JobColumn, Vec<Pointer>)],
) -> Result<Vec<JobField>, InvalidEvent> {
    let mut all = Vec::with_capacity(set.len());
    let mut taken: Vec<&Pointer> = told(document, id).map(|(pointer, _)| pointer).into_iter().collect();
    let mut whole = None;
    for (column, at) in set {
        let Some((pointer, node)) = told(document, at) else { continue };
        let given = Some(node).filter(|node| !node.is_null());
        if *column == JobColumn::Data {
            whole = given.map(|node| (pointer, node));
            continue;
        }
        taken.push(pointer);
        all.push(job_field(*column, given)?);
    }
    if let Some((pointer, node)) = whole {
        let known: Vec<&str> = taken.into_iter().filter_map(|taken| member(pointer, taken)).collect();
        all.push(JobField::Data(value::rest(node, &known, JobColumn::Data.as_str())?));
    }
    Ok(all)
}

/// What counts of several: the first that is not null, else the first null.
fn told<'p, 'd, 'b>(document: &'d Document<'b>, at: &'p [Pointer]) -> Option<(&'p Pointer, &'d Node<'b>)> {
    let present = || at.iter().filter_map(|pointer| Some((pointer, document.find(pointer)?)));
    present().find(|(_, node)| !node.is_null()).or_else(|| present().next())
}

/// The member of the object at `whole` that `pointer` names.
fn member<'p>(whole: &Pointer, pointer: &'p Pointer) -> Option<&'p str> {
    match pointer.segments.strip_prefix(whole.segments.as_slice()) {
        Some([member]) => Some(member),
        _ => None,
    }
}

fn job_field(column: JobColumn, given: Option<&Node<'_>>) -> Result<JobField, InvalidEvent> {
    let what = column.as_str();
    Ok(match column {
        JobColumn::Progress => JobField::Progress(given.map(|node| value::number(node, what)).transpose()?),
        JobColumn::CurrentStep => JobField::CurrentStep(given.map(|node| value::text(node, what)).transpose()?),
        JobColumn::VideoUrl => JobField::VideoUrl(given.map(|node| value::text(node, what)).transpose()?),
        JobColumn::Error => JobField::Error(given.map(|node| value::wording(node, what)).transpose()?),
        JobColumn::RetryCount => JobField::RetryCount(given.map(|node| value::count(node, what)).transpose()?),
        JobColumn::Data => JobField::Data(given.map_or(Ok("null".to_owned()), |node| value::json(node, what))?),
    })
}

fn session_field(column: SessionColumn, node: &Node<'_>) -> Field<SessionField> {
    let what = column.as_str();
    Ok(Some(match column {
        SessionColumn::Title => SessionField::Title(value::text(node, what)?),
        SessionColumn::StreamerId => SessionField::StreamerId(value::text(node, what)?),
        SessionColumn::AppId => SessionField::AppId(value::text(node, what)?),
        SessionColumn::ViewerCount => SessionField::ViewerCount(value::count(node, what)?),
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

fn chat_field(column: ChatColumn, node: &Node<'_>) -> Field<ChatField> {
    let what = column.as_str();
    Ok(Some(match column {
        ChatColumn::UserId => ChatField::UserId(value::text(node, what)?),
        ChatColumn::UserName => ChatField::UserName(value::text(node, what)?),
        ChatColumn::Message => ChatField::Message(value::text(node, what)?),
        ChatColumn::SentAt => return Ok(value::instant(node, what)?.map(ChatField::SentAt)),
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
