//! Signatures as the providers create them, written from their documentation and independent of the
//! product's verification.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A signed request; change it to forge one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedWebhook {
    /// Path below the ingress's address.
    pub path: String,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// Bytes that were signed.
    pub body: Vec<u8>,
}

impl SignedWebhook {
    /// Replaces the path.
    #[must_use]
    pub fn to(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Returns the value of a header.
    ///
    /// # Panics
    /// If the header is absent.
    #[must_use]
    pub fn value(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        &found.expect("the header").1
    }
}

/// Returns the HMAC-SHA256 in lower-case hex.
#[must_use]
pub fn hmac_sha256_hex(secret: &str, message: &[u8]) -> String {
    hex::encode(hmac_sha256(secret, message))
}

/// Returns the HMAC-SHA256 in padded standard base64, for a key of any bytes.
#[must_use]
pub fn hmac_sha256_base64(key: &[u8], message: &[u8]) -> String {
    STANDARD.encode(hmac_sha256(key, message))
}

fn hmac_sha256(key: impl AsRef<[u8]>, message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_ref()).expect("a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn request(platform: &str, body: &[u8]) -> SignedWebhook {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    SignedWebhook { path: format!("/api/v1/webhooks/{platform}"), headers, body: body.to_vec() }
}

/// Returns the value of `mux-signature`: `t=…,v1=…` at `timestamp` (s).
#[must_use]
pub fn pairs(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let message = [format!("{timestamp}.").as_bytes(), body].concat();
    format!("t={timestamp},v1={}", hmac_sha256_hex(secret, &message))
}

/// Returns a request of Mux, signed at `timestamp` (s).
#[must_use]
pub fn mux(secret: &str, timestamp: i64, body: &[u8]) -> SignedWebhook {
    request("mux", body).header("mux-signature", &pairs(secret, timestamp, body))
}

/// Returns a request with `X-Webhook-Signature: sha256=…` over the raw body, as for `generic`,
/// `netflix` and platforms with these presets.
#[must_use]
pub fn generic(platform: &str, secret: &str, body: &[u8]) -> SignedWebhook {
    request(platform, body)
        .header("x-webhook-signature", &format!("sha256={}", hmac_sha256_hex(secret, body)))
}

/// Returns a request with `sha256=…` over the raw body in `header`, as for RealCast and StreamGank.
#[must_use]
pub fn over_body(platform: &str, header: &str, secret: &str, body: &[u8]) -> SignedWebhook {
    request(platform, body).header(header, &format!("sha256={}", hmac_sha256_hex(secret, body)))
}

/// Returns LiveKit's token: HS256, issuer = API key, `sha256` = base64 of the body's hash.
#[must_use]
pub fn livekit_token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac_sha256(secret, message.as_bytes())))
}

/// Returns the claims that LiveKit sends for `body` at `now` (s), valid for five minutes.
#[must_use]
pub fn livekit_claims(key: &str, now: i64, body: &[u8]) -> Value {
    let hash = STANDARD.encode(Sha256::digest(body));
    json!({"iss": key, "nbf": now - 5, "exp": now + 300, "sha256": hash})
}

/// Returns a request of LiveKit at `now` (s).
#[must_use]
pub fn livekit(key: &str, secret: &str, now: i64, body: &[u8]) -> SignedWebhook {
    let token = livekit_token(secret, &livekit_claims(key, now, body));
    request("livekit", body).header("authorization", &token)
}
