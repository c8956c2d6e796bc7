//! Describes the signature scheme of a platform as data.
//!
//! # Guarantees
//!
//! - A scheme that passes [`Scheme::validate`] is unambiguous. The definition fixes the header, the
//!   signed content, the hash and the encoding. Two adjacent signed values cannot be split
//!   differently (`ambiguous_schemes_are_refused`).

use std::time::Duration;

use serde::Deserialize;

use super::standard_webhooks;
use super::template::Template;

/// Hash function of an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// For providers that offer nothing else.
    Sha1,
    /// The default.
    #[default]
    Sha256,
    /// The longest one.
    Sha512,
}

/// Encoding of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Two digits per byte. Upper case is accepted too, because some senders write it and it
    /// weakens nothing.
    #[default]
    Hex,
    /// Either alphabet, with or without padding.
    Base64,
}

/// Encoding of a secret's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretEncoding {
    /// Bytes of the text.
    #[default]
    Utf8,
    /// Base64 in either alphabet, with or without padding.
    Base64,
    /// Hex in either case.
    Hex,
}

/// Format of the timestamp of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TimestampUnit {
    /// Seconds since the epoch: digits only, no leading zero.
    #[default]
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since the epoch: digits only, no leading zero.
    #[serde(rename = "ms")]
    Millis,
    /// RFC 3339 with an offset.
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

/// Header with the time of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampHeader {
    /// Name in lower case.
    pub header: String,
    /// Format of its value.
    pub unit: TimestampUnit,
}

/// `hmac`: one header with one or more signatures, of which one must verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacSpec {
    /// Names in lower case. The first one present counts; the next is no fallback.
    pub headers: Vec<String>,
    /// Text before each signature, such as `sha256=`, compared without regard to case.
    pub prefix: String,
    /// Hash function.
    pub hash: Hash,
    /// Encoding of the signature.
    pub encoding: Encoding,
    /// Encoding of the secret.
    pub secret_encoding: SecretEncoding,
    /// Signed content.
    pub signed: Template,
    /// Source of `{timestamp}`.
    pub timestamp: Option<TimestampHeader>,
    /// Name of the header of `{id}`, in lower case.
    pub id: Option<String>,
    /// Longest accepted difference of the timestamp, in both directions. `None`: it is not checked.
    pub tolerance: Option<Duration>,
}

/// `pairs`: one header with `key=value` pairs, such as `t=1565220904,v1=20c7…`. Unknown keys are
/// ignored. Any of several signatures may match (rotation), but there is only one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairsSpec {
    /// Names in lower case. The first one present counts; the next is no fallback.
    pub headers: Vec<String>,
    /// Key of the time: `t`.
    pub timestamp_key: String,
    /// Key of a signature: `v1`.
    pub signature_key: String,
    /// Hash function.
    pub hash: Hash,
    /// Encoding of the signature.
    pub encoding: Encoding,
    /// Encoding of the secret.
    pub secret_encoding: SecretEncoding,
    /// Signed content. `{timestamp}` is the time in the header.
    pub signed: Template,
    /// Format of the time, which is required even if nothing checks it.
    pub unit: TimestampUnit,
    /// Longest accepted difference of the time, in both directions, checked before the signature.
    /// `None`: it is not checked.
    pub tolerance: Option<Duration>,
}

/// Names of the three Standard Webhooks headers with one prefix, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardHeaders {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
}

/// `standard-webhooks`: HMAC-SHA256 over `{id}.{timestamp}.{body}`. Only `v1` signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardWebhooksSpec {
    /// Header sets. The first one whose signature header is present counts.
    pub headers: Vec<StandardHeaders>,
    /// Longest accepted difference of the timestamp, in both directions.
    pub tolerance: Duration,
    pub(super) signed: Template,
}

impl StandardWebhooksSpec {
    /// Derives the header sets from the names of the signature headers, such as `webhook-signature`
    /// and `svix-signature`.
    ///
    /// # Errors
    /// Returns an error if a name does not end in `-signature`.
    pub fn new(headers: &[String], tolerance: Duration) -> Result<Self, SchemeError> {
        let set = |name: &String| {
            let prefix = name.strip_suffix("-signature").ok_or(SchemeError {
                key: "header",
                reason: "must end in -signature; the names of the other two headers follow from it",
            })?;
            Ok(StandardHeaders {
                id: format!("{prefix}-id"),
                timestamp: format!("{prefix}-timestamp"),
                signature: name.clone(),
            })
        };
        let headers = headers.iter().map(set).collect::<Result<_, _>>()?;
        Ok(Self { headers, signed: standard_webhooks::template(), tolerance })
    }
}

/// `livekit-jwt`: a JWT (HS256) whose issuer selects the credential and whose claim `sha256` is the
/// hash of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSpec {
    /// Names in lower case. The first one present counts; the next is no fallback.
    pub headers: Vec<String>,
    /// Longest accepted difference of `exp` and `nbf`.
    pub leeway: Duration,
}

/// `shared-secret`: the header is the secret itself. Nothing is signed, so no header is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSecretSpec {
    /// Names in lower case. The first one present counts; the next is no fallback.
    pub headers: Vec<String>,
}

/// Signature scheme of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// See [`HmacSpec`].
    Hmac(HmacSpec),
    /// See [`PairsSpec`].
    Pairs(PairsSpec),
    /// See [`StandardWebhooksSpec`].
    StandardWebhooks(StandardWebhooksSpec),
    /// See [`JwtSpec`].
    LivekitJwt(JwtSpec),
    /// See [`SharedSecretSpec`].
    SharedSecret(SharedSecretSpec),
}

/// Reason why a scheme is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SchemeError {
    /// Key of the signature table that is wrong.
    pub key: &'static str,
    /// Description of the problem.
    pub reason: &'static str,
}
