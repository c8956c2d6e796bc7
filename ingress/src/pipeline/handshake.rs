//! Recognizes handshakes and computes their answers.
//!
//! # Guarantees
//!
//! - A handshake by POST is answered only if the request verifies. Only the signed body identifies
//!   it; unsigned headers do not count. (`forged_handshake_is_refused`)
//! - A hub gets a confirmation only for declared topics.
//!   (`hub_is_confirmed_for_declared_topics_only`)
//! - A dashboard gets its challenge only for the configured token.
//!   (`dashboard_gets_its_challenge_for_the_token_only`)
//! - A handshake never becomes an event, and an event is never taken for a handshake.
//!   (`twitch_challenge_is_echoed_and_events_are_not`)
//!
//! # Design
//!
//! Without a configured handshake, a challenge of a few digits is echoed for any token. That lets a
//! dashboard save the URL. It proves nothing and changes nothing.

use std::collections::HashSet;

use actix_web::web::Query;
use bytes::Bytes;
use serde::Serialize;
use shared::event::Millis;
use shared::json::{self, Document, JsonNode};
use shared::platform::{Handshake, Platform};
use shared::signature::{Headers, Keys, Secret, Verified, challenge_response};
use utoipa::ToSchema;

/// Bound on foreign text in the log, in characters.
const MAX_LOGGED: usize = 200;
/// Bound on a challenge that is echoed without a token, in digits. Meta's challenges are integers.
const MAX_OPEN_CHALLENGE: usize = 32;

/// Answer to a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeReply {
    /// Echoed text.
    Text(String),
    /// Token with its HMAC.
    Zoom(TokenProof),
    /// Acknowledgement without a body.
    Acknowledged,
}

/// Answer to Zoom's URL validation.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenProof {
    /// Token as received.
    plain_token: String,
    /// HMAC of the token.
    encrypted_token: String,
}

/// Returns the answer to a verified request that is a handshake. `None`: it is none. `now` is the
/// time of the verification, `body` the decoded signed body.
pub(crate) fn answer_challenge(
    platform: &Platform,
    keys: &Keys,
    headers: &dyn Headers,
    verified: &Verified<'_>,
    body: &Bytes,
    now: Millis,
) -> Option<HandshakeReply> {
    let handshake = platform.handshake.as_ref()?;
    // A body that is not JSON is no handshake. Identification reports its error.
    let text = json::text(body);
    let document = Document::parse_text(&text).ok()?;
    let reply = match handshake {
        Handshake::Twitch => twitch(document.root(), platform.name.as_str()),
        Handshake::Zoom => zoom(document.root(), |token| {
            challenge_response(&platform.scheme, keys, headers, verified.body(), now, token)
        }),
        Handshake::Echo => echo(document.root()),
        Handshake::WebSub { .. } | Handshake::Meta { .. } => None,
    }?;
    if reply != HandshakeReply::Acknowledged {
        tracing::info!(platform = platform.name.as_str(), "handshake answered");
    }
    Some(reply)
}

/// A notification has an event. Without one, a challenge is echoed, and any other message revokes
/// the subscription.
fn twitch(body: &JsonNode<'_>, platform: &str) -> Option<HandshakeReply> {
    if ["event", "events"].iter().any(|name| body.get(name).is_some_and(|node| !node.is_null())) {
        return None;
    }
    if let Some(challenge) = text(body, "challenge") {
        return Some(HandshakeReply::Text(challenge));
    }
    let subscription = body.get("subscription")?;
    let status = text(subscription, "status").filter(|status| status != "enabled")?;
    let kind = text(subscription, "type").unwrap_or_default();
    tracing::warn!(
        platform,
        status = ?cut(&status),
        kind = ?cut(&kind),
        "the provider has revoked a subscription"
    );
    Some(HandshakeReply::Acknowledged)
}

fn zoom(body: &JsonNode<'_>, prove: impl FnOnce(&str) -> Option<String>) -> Option<HandshakeReply> {
    if body.get("event")?.as_str() != Some("endpoint.url_validation") {
        return None;
    }
    let plain_token = text(body.get("payload")?, "plainToken")?;
    let encrypted_token = prove(&plain_token)?;
    Some(HandshakeReply::Zoom(TokenProof { plain_token, encrypted_token }))
}

fn echo(body: &JsonNode<'_>) -> Option<HandshakeReply> {
    if body.get("type")?.as_str() != Some("url_verification") {
        return None;
    }
    text(body, "challenge").map(HandshakeReply::Text)
}

/// Returns a member that is a non-empty string.
fn text(node: &JsonNode<'_>, name: &str) -> Option<String> {
    node.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_LOGGED).map_or(text, |(end, _)| text.get(..end).unwrap_or_default())
}

/// Reason for which a verification by GET is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    /// The query is malformed.
    Malformed,
    /// The definition does not declare this.
    NotDeclared,
}

/// Answers a WebSub hub's `query`. Confirms a subscription to a declared topic, and the end of a
/// subscription to any other. So only the operator can end a declared one.
pub(crate) fn answer_hub(
    topics: &HashSet<String>,
    platform: &str,
    query: &str,
) -> Result<HandshakeReply, HandshakeError> {
    let query = parameters(query)?;
    let (mode, topic) = (only(&query, "hub.mode")?, only(&query, "hub.topic")?);
    let (declared, logged) = (topics.contains(topic), cut(topic));
    let meant = match mode {
        "subscribe" | "denied" => declared,
        "unsubscribe" => !declared,
        _ => return Err(HandshakeError::Malformed),
    };
    let reply = match mode {
        "denied" => HandshakeReply::Acknowledged,
        _ => HandshakeReply::Text(only(&query, "hub.challenge")?.to_owned()),
    };
    match (meant, &reply) {
        (false, _) => {
            tracing::info!(
                platform,
                mode,
                topic = ?logged,
                "topic does not match the definition; refusing the hub's request"
            );
            return Err(HandshakeError::NotDeclared);
        }
        (true, HandshakeReply::Acknowledged) => {
            tracing::warn!(
                platform,
                topic = ?logged,
                "hub denied or ended a declared subscription; acknowledging"
            )
        }
        (true, _) => tracing::info!(platform, mode, topic = ?logged, "handshake answered"),
    }
    Ok(reply)
}

/// Answers Meta's dashboard with the challenge if the query has the right `token`.
pub(crate) fn answer_dashboard(
    token: Option<&Secret>,
    platform: &str,
    query: &str,
) -> Result<HandshakeReply, HandshakeError> {
    let query = parameters(query)?;
    if only(&query, "hub.mode")? != "subscribe" {
        return Err(HandshakeError::Malformed);
    }
    let (presented, challenge) =
        (only(&query, "hub.verify_token")?, only(&query, "hub.challenge")?);
    if !token.is_some_and(|token| token.equals(presented.as_bytes())) {
        tracing::warn!(
            platform,
            "hub.verify_token is not the definition's; refusing the dashboard's request"
        );
        return Err(HandshakeError::NotDeclared);
    }
    tracing::info!(platform, "handshake answered");
    Ok(HandshakeReply::Text(challenge.to_owned()))
}

/// Answers a dashboard's `query` without a configured handshake. Only a challenge of digits is
/// echoed.
pub(crate) fn open_challenge(query: &str) -> Option<HandshakeReply> {
    let query = parameters(query).ok()?;
    let challenge = only(&query, "hub.challenge").ok()?;
    let is_number =
        challenge.len() <= MAX_OPEN_CHALLENGE && challenge.bytes().all(|b| b.is_ascii_digit());
    let subscribes = only(&query, "hub.mode") == Ok("subscribe");
    (is_number && subscribes).then(|| HandshakeReply::Text(challenge.to_owned()))
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, HandshakeError> {
    Query::from_query(query).map(Query::into_inner).map_err(|_| HandshakeError::Malformed)
}

/// Returns the parameter `name`, which must occur once and not be empty.
fn only<'q>(query: &'q [(String, String)], name: &str) -> Result<&'q str, HandshakeError> {
    let mut values = query.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        _ => Err(HandshakeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn ask(
        question: impl FnOnce(&JsonNode<'_>) -> Option<HandshakeReply>,
        body: &str,
    ) -> Option<HandshakeReply> {
        question(Document::parse(body.as_bytes()).unwrap().root())
    }

    fn sent_back(text: &str) -> Option<HandshakeReply> {
        Some(HandshakeReply::Text(text.to_owned()))
    }

    #[test]
    fn twitch_challenge_is_echoed_and_events_are_not() {
        let twitch = |body: &str| ask(|root| twitch(root, "twitch"), body);
        let subscription = |status: &str| {
            format!(r#""subscription":{{"status":"{status}","type":"stream.online"}}"#)
        };
        let pending = subscription("webhook_callback_verification_pending");
        assert_eq!(
            twitch(&format!(r#"{{"challenge":"pog ÿ<b>",{pending}}}"#)),
            sent_back("pog ÿ<b>")
        );
        assert_eq!(twitch(r#"{"challenge":"x"}"#), sent_back("x"));
        for status in [
            "authorization_revoked",
            "user_removed",
            "notification_failures_exceeded",
            "of tomorrow",
        ] {
            assert_eq!(
                twitch(&format!("{{{}}}", subscription(status))),
                Some(HandshakeReply::Acknowledged),
                "{status}"
            );
        }
        let enabled = subscription("enabled");
        for event in [
            format!(r#"{{{enabled},"event":{{"broadcaster_user_id":"1"}}}}"#),
            format!(r#"{{{enabled},"events":[]}}"#),
            format!(r#"{{{enabled},"event":{{}},"challenge":"x"}}"#),
            format!(r#"{{{},"event":{{}}}}"#, subscription("authorization_revoked")),
            format!("{{{enabled}}}"),
            format!(r#"{{{enabled},"challenge":7}}"#),
            "{}".to_owned(),
            "[]".to_owned(),
        ] {
            assert_eq!(twitch(&event), None, "{event}");
        }
    }

    #[test]
    fn zoom_validation_gets_the_token_and_its_hmac() {
        let zoom =
            |body: &str| ask(|root| zoom(root, |token| Some(format!("proof of {token}"))), body);
        let asked = zoom(
            r#"{"event":"endpoint.url_validation","payload":{"plainToken":"q1"},"event_ts":1}"#,
        )
        .unwrap();
        let HandshakeReply::Zoom(proof) = asked else { panic!("{asked:?}") };
        assert_eq!(
            serde_json::to_string(&proof).unwrap(),
            r#"{"plainToken":"q1","encryptedToken":"proof of q1"}"#
        );
        for event in [
            r#"{"event":"meeting.started","payload":{"plainToken":"q1"}}"#,
            r#"{"event":"endpoint.url_validation","payload":{}}"#,
            r#"{"event":"endpoint.url_validation","payload":{"plainToken":""}}"#,
            r#"{"payload":{"plainToken":"q1"}}"#,
        ] {
            assert_eq!(zoom(event), None, "{event}");
        }
    }

    #[test]
    fn echo_answers_url_verification_only() {
        let echo = |body: &str| ask(echo, body);
        assert_eq!(
            echo(r#"{"token":"t","challenge":"3eZb","type":"url_verification"}"#),
            sent_back("3eZb")
        );
        for event in [
            r#"{"challenge":"3eZb","type":"event_callback"}"#,
            r#"{"type":"url_verification"}"#,
            r#"{"type":"url_verification","challenge":["x"]}"#,
            r#"{"challenge":"3eZb"}"#,
        ] {
            assert_eq!(echo(event), None, "{event}");
        }
    }

    #[test]
    fn hub_is_confirmed_for_declared_topics_only() {
        let topics = HashSet::from(["https://example.com/feed?id=1".to_owned()]);
        let answer_hub = |query: &str| answer_hub(&topics, "acme", query);
        let declared = "hub.topic=https%3A%2F%2Fexample.com%2Ffeed%3Fid%3D1";
        let other = "hub.topic=https%3A%2F%2Fexample.com%2Fother";
        let ask = |mode: &str, topic: &str| {
            answer_hub(&format!("hub.mode={mode}&{topic}&hub.challenge=c+1%2F%C3%A9"))
        };
        assert_eq!(ask("subscribe", declared), Ok(HandshakeReply::Text("c 1/é".to_owned())));
        assert_eq!(ask("subscribe", other), Err(HandshakeError::NotDeclared));
        assert_eq!(
            ask("unsubscribe", declared),
            Err(HandshakeError::NotDeclared),
            "a declared subscription must not end"
        );
        assert_eq!(ask("unsubscribe", other), Ok(HandshakeReply::Text("c 1/é".to_owned())));
        assert_eq!(ask("denied", declared), Ok(HandshakeReply::Acknowledged));
        assert_eq!(ask("denied", other), Err(HandshakeError::NotDeclared));
        for wrong in [
            String::new(),
            "hub.mode=subscribe".to_owned(),
            format!("hub.mode=subscribe&{declared}"),
            format!("hub.mode=subscribe&{declared}&hub.challenge="),
            format!("hub.mode=subscribe&{declared}&hub.challenge=a&hub.challenge=b"),
            format!("hub.mode=subscribe&{declared}&{other}&hub.challenge=a"),
            format!("hub.mode=unsubscribe&hub.mode=subscribe&{declared}&hub.challenge=a"),
            format!("hub.mode=publish&{declared}&hub.challenge=a"),
            format!("{declared}&hub.challenge=a"),
        ] {
            assert_eq!(answer_hub(&wrong), Err(HandshakeError::Malformed), "{wrong}");
        }
    }

    #[test]
    fn dashboard_gets_its_challenge_for_the_token_only() {
        let token = Secret::new("meaty hamhock");
        let ask = |query: &str| answer_dashboard(Some(&token), "acme", query);
        let query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meaty+hamhock";
        assert_eq!(ask(query), Ok(HandshakeReply::Text("1158201444".to_owned())));
        assert_eq!(ask(&query.replace("meaty", "meat")), Err(HandshakeError::NotDeclared));
        assert_eq!(answer_dashboard(None, "acme", query), Err(HandshakeError::NotDeclared));
        for wrong in [
            query.replace("subscribe", "unsubscribe"),
            query.replace("&hub.challenge=1158201444", ""),
            query.replace("=meaty+hamhock", "="),
            format!("{query}&hub.verify_token=other"),
        ] {
            assert_eq!(ask(&wrong), Err(HandshakeError::Malformed), "{wrong}");
        }
    }

    #[test]
    fn open_challenge_is_at_most_32_digits() {
        let ask = |challenge: &str| {
            open_challenge(&format!("hub.mode=subscribe&hub.challenge={challenge}"))
        };
        assert_eq!(ask("1158201444"), sent_back("1158201444"));
        assert_eq!(ask(&"9".repeat(32)), sent_back(&"9".repeat(32)));
        for other in ["", "12a", "%3Cscript%3E", "-1", "1.5", "+1", "%D9%A1", &"9".repeat(33)] {
            assert_eq!(ask(other), None, "{other}");
        }
        assert_eq!(open_challenge("hub.challenge=1"), None);
        assert_eq!(open_challenge("hub.mode=subscribe&hub.challenge=1&hub.challenge=2"), None);
    }
}
