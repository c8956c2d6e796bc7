//! Builds the headers of a delivery, with its signatures.
//!
//! # Guarantees
//!
//! - `X-<Source>-Signature` signs the raw body (`body_is_signed_as_sent`).
//! - The Standard Webhooks headers sign body, id and time
//!   (`standard_signature_matches_its_test_vector`). See <https://www.standardwebhooks.com>.
//! - The operator's headers replace none of these
//!   (`operator_headers_cannot_replace_reserved_ones`).
//!
//! Each attempt has new signatures, since they cover its time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::event::Millis;
use crate::signature::base64_text;

/// Header that counts the Tributary instances that an event passed through, see [`MAX_HOPS`].
pub const HOPS_HEADER: &str = "tributary-hops";
/// Number of instances after which an event is considered to be in a loop.
pub const MAX_HOPS: u32 = 8;
/// Header of the W3C trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// Reserved header names, beside `X-<Source>-…` and `webhook-…`.
const RESERVED: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "expect",
    "te",
    "trailer",
    "upgrade",
    "user-agent",
    HOPS_HEADER,
    TRACEPARENT_HEADER,
];

/// `WEBHOOK_SOURCE`: the sender's name, which is part of header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceName(String);

/// Error for a text that cannot be part of a header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 letters, digits and '-', since header names are made of it")]
pub struct SourceNameError;

impl SourceName {
    /// Checks the name.
    ///
    /// # Errors
    /// The name is empty, too long, or has other characters than ASCII letters, digits and `-`.
    pub fn new(name: &str) -> Result<Self, SourceNameError> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let is_valid = (1..=64).contains(&name.len())
            && name.bytes().all(is_allowed)
            && !name.starts_with('-');
        if is_valid { Ok(Self(name.to_owned())) } else { Err(SourceNameError) }
    }

    /// The name as the operator wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the header `X-<Source>-<what>`.
    #[must_use]
    pub fn header(&self, what: &str) -> String {
        format!("X-{}-{what}", self.0)
    }
}

impl Default for SourceName {
    fn default() -> Self {
        Self("Tributary".to_owned())
    }
}

/// Returns true if the operator may set the header `name`. Case does not matter.
#[must_use]
pub fn is_settable(name: &str, source: &SourceName) -> bool {
    let name = name.to_ascii_lowercase();
    let reserved_prefix = source.header("").to_ascii_lowercase();
    !name.starts_with(&reserved_prefix)
        && !name.starts_with("webhook-")
        && !RESERVED.contains(&name.as_str())
}

/// Headers of one attempt, in order. `now` is the time of the attempt.
///
/// `secrets` are the valid ones, the newest first. The newest signs `X-<Source>-Signature`, the
/// others sign `X-<Source>-Signature-Previous`, and all of them sign `webhook-signature`.
#[must_use]
pub fn headers(
    source: &SourceName,
    secrets: &[&SecretString],
    event: &str,
    delivery: &str,
    hops: u32,
    body: &[u8],
    now: Millis,
) -> Vec<(String, String)> {
    let mut headers = vec![
        ("Content-Type".to_owned(), "application/json".to_owned()),
        ("User-Agent".to_owned(), format!("{}-Webhook/1.0", source.as_str())),
        (source.header("Event"), printable(event)),
        (source.header("Delivery"), delivery.to_owned()),
        ("webhook-id".to_owned(), delivery.to_owned()),
        ("webhook-timestamp".to_owned(), now.div_euclid(1000).to_string()),
        (HOPS_HEADER.to_owned(), hops.to_string()),
    ];
    let seconds = now.div_euclid(1000).to_string();
    let signed = [delivery.as_bytes(), b".", seconds.as_bytes(), b".", body];
    let over_body =
        secrets.iter().filter_map(|secret| mac(secret.expose_secret().as_bytes(), &[body]));
    let mut over_body = over_body.map(|tag| format!("sha256={}", hex::encode(tag)));
    if let Some(newest) = over_body.next() {
        headers.push((source.header("Signature"), newest));
    }
    let previous = over_body.collect::<Vec<_>>().join(", ");
    if !previous.is_empty() {
        headers.push((source.header("Signature-Previous"), previous));
    }
    let standard =
        secrets.iter().filter_map(|secret| mac(&standard_key(secret.expose_secret()), &signed));
    let standard: Vec<String> =
        standard.map(|tag| format!("v1,{}", STANDARD.encode(tag))).collect();
    if !standard.is_empty() {
        headers.push(("webhook-signature".to_owned(), standard.join(" ")));
    }
    headers
}

/// Replaces characters that a header value cannot hold. Senders choose the event type.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Key of Standard Webhooks: base64 after `whsec_`, else the bytes of the secret.
fn standard_key(secret: &str) -> zeroize::Zeroizing<Vec<u8>> {
    let text = base64_text::without_version(secret);
    let decoded = text.strip_prefix("whsec_").and_then(base64_text::decode_secret);
    zeroize::Zeroizing::new(decoded.unwrap_or_else(|| secret.as_bytes().to_vec()))
}

/// Computes HMAC-SHA256. HMAC accepts keys of any length, so the result is never `None`.
fn mac(key: &[u8], pieces: &[&[u8]]) -> Option<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).ok()?;
    pieces.iter().for_each(|piece| mac.update(piece));
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(secret: Option<&str>, body: &[u8]) -> std::collections::BTreeMap<String, String> {
        signed_by_all(secret.as_slice(), body)
    }

    fn signed_by_all(secrets: &[&str], body: &[u8]) -> std::collections::BTreeMap<String, String> {
        let secrets: Vec<SecretString> =
            secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        let secrets: Vec<&SecretString> = secrets.iter().collect();
        headers(
            &SourceName::new("StreamGank").unwrap(),
            &secrets,
            "job.completed",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1,
            body,
            1_614_265_330_999,
        )
        .into_iter()
        .collect()
    }

    /// Test vector of the Standard Webhooks reference libraries.
    #[test]
    fn standard_signature_matches_its_test_vector() {
        let headers =
            of(Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), br#"{"test": 2432232314}"#);
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
    }

    /// Expected value: `printf '{"a":1}' | openssl dgst -sha256 -hmac s3cret`
    #[test]
    fn body_is_signed_as_sent() {
        let headers = of(Some("s3cret"), br#"{"a":1}"#);
        assert_eq!(
            headers["X-StreamGank-Signature"],
            "sha256=5910e62016ef5034272c926c27071992a465c2335cecf41851bda071577f4f6d"
        );
        assert_eq!(headers["X-StreamGank-Event"], "job.completed");
        assert_eq!(headers["X-StreamGank-Delivery"], headers["webhook-id"]);
        assert_eq!(headers["User-Agent"], "StreamGank-Webhook/1.0");
    }

    #[test]
    fn rotation_signs_with_the_old_secrets_too() {
        let body = br#"{"a":1}"#;
        let alone = |secret| of(Some(secret), body);
        let all = signed_by_all(&["new", "old", "older"], body);
        let signature =
            |of: &std::collections::BTreeMap<String, String>| of["X-StreamGank-Signature"].clone();
        assert_eq!(signature(&all), signature(&alone("new")));
        let previous = [signature(&alone("old")), signature(&alone("older"))].join(", ");
        assert_eq!(all["X-StreamGank-Signature-Previous"], previous);
        let standard =
            ["new", "old", "older"].map(|secret| alone(secret)["webhook-signature"].clone());
        assert_eq!(all["webhook-signature"], standard.join(" "));
        assert!(!alone("new").contains_key("X-StreamGank-Signature-Previous"));
    }

    #[test]
    fn delivery_without_a_secret_is_not_signed() {
        let headers = of(None, b"{}");
        assert!(!headers.keys().any(|name| name.to_lowercase().contains("signature")));
    }

    #[test]
    fn operator_headers_cannot_replace_reserved_ones() {
        let source = SourceName::new("StreamGank").unwrap();
        for name in [
            "x-streamgank-signature",
            "X-STREAMGANK-Extra",
            "Webhook-Id",
            "Host",
            "content-length",
            HOPS_HEADER,
        ] {
            assert!(!is_settable(name, &source), "{name}");
        }
        for name in ["Authorization", "X-Custom-Header", "X-Tributary-Event"] {
            assert!(is_settable(name, &source), "{name}");
        }
    }

    #[test]
    fn source_name_must_fit_a_header_name() {
        for wrong in ["", "a b", "ä", "a:b", "-a", &"a".repeat(65)] {
            assert_eq!(SourceName::new(wrong), Err(SourceNameError), "{wrong}");
        }
    }
}
