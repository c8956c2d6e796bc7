//! How a platform's requests prove themselves, as data.
//!
//! Guarantee: a scheme without [`Scheme::validate`] leaves no choice to the sender: which header counts, what is
//! signed, which hash and which spelling are fixed by the definition, and two values that are signed side by side can
//! not be told apart differently from how the sender meant them.

use std::time::Duration;

use serde::Deserialize;

use super::standard_webhooks;
use super::template::Template;

/// The hash under an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// Legacy; only for providers that have nothing else.
    Sha1,
    /// The usual one.
    #[default]
    Sha256,
    /// The long one.
    Sha512,
}

/// How a signature is spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Two digits a byte. Upper case is accepted too: some senders' libraries write it, and it opens nothing.
    #[default]
    Hex,
    /// Either alphabet, with or without padding.
    Base64,
}

/// How a secret's text becomes a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretEncoding {
    /// The text's bytes.
    #[default]
    Utf8,
    /// The bytes that the text stands for, in either alphabet, with or without padding.
    Base64,
    /// The bytes that the text stands for, in either case.
    Hex,
}

/// What a signature's timestamp is.
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

/// A header that holds the time of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampHeader {
    /// Lower-case name.
    pub header: String,
    /// What it holds.
    pub unit: TimestampUnit,
}

/// `hmac`: one header with a signature, or several of which one must verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacSpec {
    /// Lower-case names; the first one present counts, there is no fallback to the next.
    pub headers: Vec<String>,
    /// Text before each signature, such as `sha256=`, in either case.
    pub prefix: String,
    /// The hash.
    pub hash: Hash,
    /// The spelling.
    pub encoding: Encoding,
    /// The key.
    pub secret_encoding: SecretEncoding,
    /// What is signed.
    pub signed: Template,
    /// Where `{timestamp}` is.
    pub timestamp: Option<TimestampHeader>,
    /// Lower-case name of the header that `{id}` stands for.
    pub id: Option<String>,
    /// How far the timestamp may be off, in both directions. `None`: it is not checked.
    pub tolerance: Option<Duration>,
}

/// `pairs`: one header with `key=value` pairs, such as `t=1565220904,v1=20c7…`. Unknown keys beside a good signature
/// are ignored, and any of several signatures may match (rotation), but there is only one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairsSpec {
    /// Lower-case names; the first one present counts, there is no fallback to the next.
    pub headers: Vec<String>,
    /// Key of the time: `t`.
    pub timestamp_key: String,
    /// Key of a signature: `v1`.
    pub signature_key: String,
    /// The hash.
    pub hash: Hash,
    /// The spelling.
    pub encoding: Encoding,
    /// The key.
    pub secret_encoding: SecretEncoding,
    /// What is signed; `{timestamp}` is the header's.
    pub signed: Template,
    /// What the time is; it must be there even where nothing looks at it.
    pub unit: TimestampUnit,
    /// How far the time may be off, in both directions; checked before the signature. `None`: it is not checked.
    pub tolerance: Option<Duration>,
}

/// The three headers of Standard Webhooks under one prefix, lower-case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardHeaders {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
}

/// `standard-webhooks`: HMAC-SHA256 over `{id}.{timestamp}.{body}`; only `v1` signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardWebhooksSpec {
    /// The first set whose signature header is present counts.
    pub headers: Vec<StandardHeaders>,
    /// How far the timestamp may be off, in both directions.
    pub tolerance: Duration,
    pub(super) signed: Template,
}

impl StandardWebhooksSpec {
    /// From the names of the signature headers, such as `webhook-signature` and `svix-signature`.
    ///
    /// # Errors
    /// When a name does not end in `-signature`.
    pub fn new(headers: &[String], tolerance: Duration) -> Result<Self, SchemeError> {
        let set = |name: &String| {
            let prefix = name.strip_suffix("-signature").ok_or(SchemeError {
                key: "header",
                reason: "must end in -signature, from which the names of the other two headers follow",
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

/// `livekit-jwt`: a JWT (HS256) whose issuer chooses the credential and whose `sha256` claim is the body's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSpec {
    /// Lower-case names; the first one present counts, there is no fallback to the next.
    pub headers: Vec<String>,
    /// How far `exp` and `nbf` may be off.
    pub leeway: Duration,
}

/// `shared-secret`: the header is the secret itself. Nothing is signed, so no header is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSecretSpec {
    /// Lower-case names; the first one present counts, there is no fallback to the next.
    pub headers: Vec<String>,
}

/// How requests prove themselves.
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

/// Why a scheme cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SchemeError {
    /// The key of the signature table that is wrong.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}
