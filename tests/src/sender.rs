//! HTTP client of an ingress, and the events that the tests send.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::sign::{self, SignedWebhook};

/// `STREAMING_WEBHOOK_SIGNING_SECRET` of every stack.
pub const MUX_SECRET: &str = "mux-secret-a8f1";
/// `LIVEKIT_API_KEY` of every stack.
pub const LIVEKIT_KEY: &str = "APIharnesskey";
/// `LIVEKIT_API_SECRET` of every stack.
pub const LIVEKIT_SECRET: &str = "livekit-secret-5d20-0123456789abcdef";
/// `NETFLIX_WEBHOOK_SECRET` of every stack.
pub const NETFLIX_SECRET: &str = "netflix-secret-77c3";
/// Secret of the platform `acme` (preset `generic`) in the `PLATFORMS_FILE` of every stack.
pub const ACME_SECRET: &str = "acme-secret-19be";
/// `ADMIN_TOKEN` of every stack.
pub const ADMIN_TOKEN: &str = "admin-token-c0ffee";

/// Returns the seconds since the epoch.
#[must_use]
pub fn now() -> i64 {
    now_ms() / 1000
}

/// Returns the milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292 million")
}

/// Formats `ms` since the epoch as RFC 3339 with milliseconds and `Z`.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .expect("a time");
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    at.format(&format).expect("a formatted time")
}

/// Answer of an ingress.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as text.
    pub text: String,
    /// Body as JSON; null if it is not JSON.
    pub json: Value,
}

impl HttpAnswer {
    /// Returns the value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns `event_id`, or an empty string.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.json["event_id"].as_str().unwrap_or_default()
    }

    /// Returns `status` of the body, or an empty string.
    #[must_use]
    pub fn outcome(&self) -> &str {
        self.json["status"].as_str().unwrap_or_default()
    }

    /// Returns `errcode`, or an empty string.
    #[must_use]
    pub fn errcode(&self) -> &str {
        self.json["errcode"].as_str().unwrap_or_default()
    }

    /// Checks status and outcome, and returns the event id.
    ///
    /// # Panics
    /// If they differ.
    #[track_caller]
    pub fn expect(&self, status: u16, outcome: &str) -> &str {
        assert_eq!((self.status, self.outcome()), (status, outcome), "answer: {}", self.text);
        assert!(!self.event_id().is_empty(), "no event_id: {}", self.text);
        self.event_id()
    }

    /// Checks that the answer is the error envelope with this status and code.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn expect_error(&self, status: u16, errcode: &str) {
        assert_eq!((self.status, self.errcode()), (status, errcode), "answer: {}", self.text);
        let mut fields: Vec<&str> =
            self.json.as_object().expect("an object").keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["errcode", "erresid", "errmesg", "success"], "answer: {}", self.text);
        assert_eq!(self.json["success"], false);
        assert!(
            self.json["errmesg"].as_str().is_some_and(|text| !text.is_empty()),
            "answer: {}",
            self.text
        );
        assert!(
            self.json["erresid"].as_str().is_some_and(|text| !text.is_empty()),
            "answer: {}",
            self.text
        );
        assert!(
            self.header("content-type").is_some_and(|kind| kind.starts_with("application/json"))
        );
    }
}

/// Creates an HTTP client with a timeout.
///
/// # Panics
/// If the client cannot be created.
#[must_use]
pub fn http(timeout: Duration) -> reqwest::Client {
    // The client needs a default provider even without TLS; a second installation changes nothing.
    // No system certificates: loading them per client would take longer than most requests.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        .tls_certs_only(None)
        .build()
        .expect("an HTTP client")
}

/// Client of one ingress that signs with the stacks' secrets.
#[derive(Clone, Debug)]
pub struct Sender {
    http: reqwest::Client,
    base: String,
}

impl Sender {
    /// Creates a client of the ingress at `base` (`http://127.0.0.1:PORT`).
    ///
    /// # Panics
    /// If the HTTP client cannot be created.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self { http: http(Duration::from_secs(35)), base: base.to_owned() }
    }

    /// Sends a POST request.
    ///
    /// # Errors
    /// If there is no complete answer.
    pub async fn try_send(&self, signed: &SignedWebhook) -> reqwest::Result<HttpAnswer> {
        self.request(reqwest::Method::POST, signed).await
    }

    /// Sends a request with any method.
    ///
    /// # Errors
    /// If there is no complete answer.
    pub async fn request(
        &self,
        method: reqwest::Method,
        signed: &SignedWebhook,
    ) -> reqwest::Result<HttpAnswer> {
        let mut request = self
            .http
            .request(method, format!("{}{}", self.base, signed.path))
            .body(signed.body.clone());
        for (name, value) in &signed.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers =
            answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let text = answer.text().await?;
        let json = serde_json::from_str(&text).unwrap_or_default();
        Ok(HttpAnswer { status, headers, text, json })
    }

    /// Sends a POST request.
    ///
    /// # Panics
    /// If there is no complete answer.
    pub async fn send(&self, signed: &SignedWebhook) -> HttpAnswer {
        self.try_send(signed).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends a GET request for `path`.
    ///
    /// # Panics
    /// If there is no complete answer.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        let request =
            SignedWebhook { path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
        self.request(reqwest::Method::GET, &request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Signs and sends an event of Mux.
    pub async fn mux(&self, body: &Value) -> HttpAnswer {
        self.send(&sign::mux(MUX_SECRET, now(), body.to_string().as_bytes())).await
    }

    /// Signs and sends a LiveKit event.
    pub async fn livekit(&self, body: &Value) -> HttpAnswer {
        self.send(&sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body.to_string().as_bytes()))
            .await
    }

    /// Signs and sends a Netflix event.
    pub async fn netflix(&self, body: &Value) -> HttpAnswer {
        self.send(&sign::generic("netflix", NETFLIX_SECRET, body.to_string().as_bytes())).await
    }

    /// Signs and sends an event of `acme`, a platform with the preset `generic`.
    pub async fn acme(&self, body: &Value) -> HttpAnswer {
        self.send(&sign::generic("acme", ACME_SECRET, body.to_string().as_bytes())).await
    }

    /// Announces a session (`PUT /api/v1/sessions/{room}`) with the admin token.
    ///
    /// # Panics
    /// If there is no complete answer.
    pub async fn announce(&self, room: &str, body: &Value) -> HttpAnswer {
        let signed =
            announcement(room, body).header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
        self.request(reqwest::Method::PUT, &signed)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }
}

/// Returns the request that announces a session, without a token.
#[must_use]
pub fn announcement(room: &str, body: &Value) -> SignedWebhook {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    SignedWebhook {
        path: format!("/api/v1/sessions/{room}"),
        headers,
        body: body.to_string().into_bytes(),
    }
}

/// Returns a live stream event as Mux sends it; `kind` is the part after `video.live_stream.`.
#[must_use]
pub fn mux_event(
    id: &str,
    kind: &str,
    room: Option<&str>,
    live_stream_id: &str,
    at_ms: i64,
) -> Value {
    let mut data = json!({"id": live_stream_id, "status": kind, "stream_key": "not-a-real-key"});
    if let Some(room) = room {
        data["passthrough"] = room.into();
    }
    json!({
        "type": format!("video.live_stream.{kind}"),
        "id": id,
        "created_at": rfc3339(at_ms),
        "data": data,
        "object": {"type": "live_stream", "id": live_stream_id},
        "environment": {"name": "production", "id": "env_123"},
    })
}

/// Returns an asset event as Mux sends it; `kind` is the part after `video.asset.`.
#[must_use]
pub fn mux_asset(id: &str, kind: &str, asset: &str, live_stream_id: &str, at_ms: i64) -> Value {
    json!({
        "type": format!("video.asset.{kind}"),
        "id": id,
        "created_at": rfc3339(at_ms),
        "data": {
            "id": asset,
            "status": kind,
            "live_stream_id": live_stream_id,
            "duration": 61.5,
            "playback_ids": [],
        },
        "object": {"type": "asset", "id": asset},
        "environment": {"name": "production", "id": "env_123"},
    })
}

/// Returns a room event as LiveKit sends it.
#[must_use]
pub fn livekit_event(id: &str, event: &str, room: &str, at: i64) -> Value {
    let room = json!({"sid": "RM_x", "name": room});
    json!({"event": event, "id": id, "createdAt": at.to_string(), "room": room})
}

/// Returns a catalogue event as `generic` and `netflix` send it.
#[must_use]
pub fn content_event(event_type: &str, content_id: &str, title: &str, at_ms: i64) -> Value {
    json!({
        "event_type": event_type,
        "timestamp": rfc3339(at_ms),
        "payload": {"content_id": content_id, "title": title, "content_type": "series"},
    })
}

/// Returns a unique id.
#[must_use]
pub fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}
