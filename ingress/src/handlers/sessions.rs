//! Handles `PUT /api/v1/sessions/{room_id}`: an application announces a session.
//!
//! # Guarantees
//!
//! - An announcement goes through the queue like every event.
//!   (`announcement_is_queued_on_the_reserved_platform`)
//! - A queued announcement is complete and checked. `config` is kept as written.
//!   (`announcement_holds_the_given_members_only`)

use std::time::Instant;

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::config::AdminToken;
use shared::event::{EventTime, MAX_EVENT_ID_BYTES, NewEvent, marker_digest};
use shared::json::{self, Document, JsonNode, Value};
use shared::platform::{PlatformName, SessionStatus};
use uuid::Uuid;

use super::{catch_panic, respond};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::ReceivedBody;

/// Event type of an announcement.
const EVENT_TYPE: &str = "session.announced";
/// Bound on room ids and live stream ids, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// Handles one announcement.
pub(crate) async fn announce(
    request: HttpRequest,
    room_id: Path<String>,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    let begun = Instant::now();
    let mut payload = payload.into_inner();
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    if let Err(refusal) = AdminToken::authorize(ingress.admin_token.as_ref(), authorization) {
        return Error::Admin(refusal).respond(Some(ingress.targets.sessions()), payload);
    }
    let target = ingress.targets.sessions();
    let work = async {
        let key = idempotency_key(&request)?;
        let ReceivedBody { bytes, coding: Ok(None), held } =
            ingress.pipeline.body_reader.read(request.headers(), &mut payload).await?
        else {
            return Err(Error::UnsupportedEncoding);
        };
        let body = announcement(&room_id, &bytes)?;
        let event = event(&target.platform.name, &room_id, key, body);
        ingress.pipeline.enqueue(target, event, held).await
    };
    let response = match catch_panic(work).await {
        Ok(answer) => respond(&answer, target),
        Err(error) => {
            error.outcome().into_iter().for_each(|outcome| target.metrics.request(outcome));
            error.respond(Some(target), payload)
        }
    };
    target.metrics.request_duration(begun.elapsed());
    response
}

/// Creates the event of an announcement. With an idempotency key it happens once per room. Without
/// one, every request is a new announcement.
fn event(platform: &PlatformName, room_id: &str, key: Option<&str>, body: Bytes) -> NewEvent {
    let scoped = key.map(|key| marker_digest(room_id, key));
    let marker = scoped.as_ref().map(|id| marker_digest(platform.as_str(), id));
    NewEvent {
        event_id: scoped.unwrap_or_else(|| Uuid::new_v4().to_string()),
        event_type: EVENT_TYPE.to_owned(),
        occurred_at: EventTime::Absent,
        body,
        marker,
        delivery_id: None,
        traceparent: None,
        reply_to: None,
        hops: 0,
        unusable: None,
    }
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<&str>, Error> {
    let mut values = request.headers().get_all("idempotency-key");
    let (Some(value), None) = (values.next(), values.next()) else {
        return match request.headers().contains_key("idempotency-key") {
            true => Err(invalid("Idempotency-Key must be given once")),
            false => Ok(None),
        };
    };
    let key = value.to_str().ok().filter(|key| (1..=MAX_EVENT_ID_BYTES).contains(&key.len()));
    key.map(Some).ok_or_else(|| invalid("Idempotency-Key must be 1 to 256 characters of ASCII"))
}

#[derive(Serialize)]
struct AnnouncementBody<'a> {
    room_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_stream_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<SessionStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a RawValue>,
}

/// Returns the body to queue for the announcement `body` of `room_id`.
fn announcement(room_id: &str, body: &[u8]) -> Result<Bytes, Error> {
    if !is_id(room_id) {
        return Err(invalid("room_id must be 1 to 256 bytes of text without control characters"));
    }
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let text = json::text(body);
    let document =
        Document::parse_text(&text).map_err(|error| invalid(&format!("body: {error}")))?;
    let Value::Object(members) = document.root().value() else {
        return Err(invalid("body: must be an object"));
    };
    let mut announced =
        AnnouncementBody { room_id, live_stream_id: None, status: None, config: None };
    for (key, node) in members.iter().filter(|(_, node)| !node.is_null()) {
        match &**key {
            "live_stream_id" => announced.live_stream_id = Some(live_stream_id(node)?),
            "status" => announced.status = Some(status(node)?),
            "config" => announced.config = Some(config(node)?),
            _ => return Err(invalid("body: may have live_stream_id, status and config only")),
        }
    }
    serde_json::to_vec(&announced).map(Bytes::from).map_err(|_| Error::Internal)
}

fn live_stream_id<'a>(node: &'a JsonNode<'_>) -> Result<&'a str, Error> {
    let id = node.as_str().filter(|id| is_id(id));
    id.ok_or_else(|| {
        invalid(
            "/live_stream_id: must be a string of 1 to 256 bytes of text without control \
            characters",
        )
    })
}

fn status(node: &JsonNode<'_>) -> Result<SessionStatus, Error> {
    let status = node.as_str().and_then(|text| text.parse().ok());
    status
        .ok_or_else(|| invalid("/status: must be one of ready, live, idle, ended, stopped, error"))
}

fn config<'a>(node: &JsonNode<'a>) -> Result<&'a RawValue, Error> {
    if !matches!(node.value(), Value::Object(_)) {
        return Err(invalid("/config: must be an object"));
    }
    serde_json::from_str(node.raw()).map_err(|_| Error::Internal)
}

/// A path that was not UTF-8 has replacement characters.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && !text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

fn invalid(what: &str) -> Error {
    Error::InvalidRequest(what.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn queued(room_id: &str, body: &str) -> String {
        String::from_utf8(announcement(room_id, body.as_bytes()).unwrap().to_vec()).unwrap()
    }

    fn refused(room_id: &str, body: &str) -> String {
        announcement(room_id, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn announcement_holds_the_given_members_only() {
        assert_eq!(queued("r", ""), r#"{"room_id":"r"}"#);
        assert_eq!(queued("r", r#"{"config":null}"#), r#"{"room_id":"r"}"#);
        assert_eq!(
            queued(
                "a \"b\"",
                r#"{"config":{"n":1.50,"x":[]},"status":"ready","live_stream_id":"l"}"#
            ),
            concat!(
                r#"{"room_id":"a \"b\"","live_stream_id":"l","status":"ready","#,
                r#""config":{"n":1.50,"x":[]}}"#
            )
        );
    }

    #[test]
    fn announcement_errors_name_the_path() {
        assert_eq!(
            refused("r", r#"{"status":"on fire"}"#),
            "/status: must be one of ready, live, idle, ended, stopped, error"
        );
        assert_eq!(refused("r", r#"{"config":[]}"#), "/config: must be an object");
        assert!(refused("r", r#"{"live_stream_id":7}"#).starts_with("/live_stream_id: "));
        assert_eq!(refused("r", "[]"), "body: must be an object");
        assert!(refused("r", r#"{"room_id":"other"}"#).starts_with("body: may have"));
        assert!(
            refused("r", r#"{"status":"live","status":"idle"}"#).starts_with("body: duplicate key")
        );
        assert!(refused("r\0", "").starts_with("room_id"));
        assert!(refused(&"r".repeat(257), "").starts_with("room_id"));
    }

    #[test]
    fn idempotency_key_makes_an_announcement_happen_once() {
        let platform = PlatformName::new(PlatformName::SESSIONS).unwrap();
        let keyed = |room, key| event(&platform, room, Some(key), Bytes::new());
        assert_eq!(keyed("room", "k").event_id, keyed("room", "k").event_id);
        assert_eq!(keyed("room", "k").marker, keyed("room", "k").marker);
        for other in [keyed("room", "k2"), keyed("other room", "k")] {
            assert_ne!(keyed("room", "k").event_id, other.event_id);
            assert_ne!(keyed("room", "k").marker, other.marker);
        }
        let anonymous = || event(&platform, "room", None, Bytes::new());
        let (one, other) = (anonymous(), anonymous());
        assert_ne!(one.event_id, other.event_id);
        assert_eq!(one.marker, None);
    }
}
