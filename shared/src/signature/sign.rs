//! Signs requests as a provider does, for test events. It is the counterpart of
//! [`verify`](super::verify).
//!
//! # Guarantees
//!
//! - A signed request verifies at its time under every scheme, and the first of several keys signs
//!   (`signed_request_verifies_only_with_its_key_and_body`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Millis;
use super::keys::{Credential, Keys, Secret};
use super::mac::{SignedContent, Tag};
use super::spec::{
    Encoding, Hash, HmacSpec, PairsSpec, Scheme, StandardWebhooksSpec, TimestampUnit,
};
use super::template::Template;
use crate::clock;

/// Lifetime of a token in seconds. LiveKit's tokens are valid for five minutes.
const TOKEN_LIFETIME_SECONDS: i64 = 300;

/// Error of a request that cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// There is no key of the kind that the scheme needs.
    #[error("there is no key of the kind that the signature scheme needs")]
    NoKey,
    /// The scheme cannot represent the time.
    #[error("the signature scheme cannot represent this time")]
    Time,
    /// The secret would have to be sent as a header, but is not a valid header value.
    #[error("the secret is not a valid header value")]
    NotAHeader,
    /// The key is unusable.
    #[error("the key cannot be used")]
    Key,
}

/// Signature headers: names in lower case, and their values. The values are as secret as the
/// request.
pub type SignatureHeaders = Vec<(String, String)>;

/// Signs `body` as sent at the time `now`. `id` is used if the scheme has an id.
///
/// # Errors
/// See [`SignError`].
pub fn sign(
    scheme: &Scheme,
    keys: &Keys,
    body: &[u8],
    id: &str,
    now: Millis,
) -> Result<SignatureHeaders, SignError> {
    match (scheme, keys) {
        (Scheme::LivekitJwt(spec), Keys::Credentials(credentials)) => {
            let credential = credentials.first().ok_or(SignError::NoKey)?;
            single_header(&spec.headers, token(credential, body, now)?)
        }
        (_, Keys::Credentials(_)) | (Scheme::LivekitJwt(_), Keys::Secrets(_)) => {
            Err(SignError::NoKey)
        }
        (scheme, Keys::Secrets(secrets)) => {
            let secret = secrets.first().ok_or(SignError::NoKey)?;
            match scheme {
                Scheme::Hmac(spec) => hmac(spec, secret, body, id, now),
                Scheme::Pairs(spec) => pairs(spec, secret, body, now),
                Scheme::StandardWebhooks(spec) => standard_webhooks(spec, secret, body, id, now),
                Scheme::SharedSecret(spec) => {
                    let text =
                        std::str::from_utf8(secret.expose()).map_err(|_| SignError::NotAHeader)?;
                    let fits = text.trim() == text
                        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
                    if fits {
                        single_header(&spec.headers, text.to_owned())
                    } else {
                        Err(SignError::NotAHeader)
                    }
                }
                Scheme::LivekitJwt(_) => Err(SignError::NoKey),
            }
        }
    }
}

fn single_header(headers: &[String], value: String) -> Result<SignatureHeaders, SignError> {
    let name = headers.first().ok_or(SignError::NotAHeader)?;
    Ok(vec![(name.clone(), value)])
}

fn hmac(
    spec: &HmacSpec,
    secret: &Secret,
    body: &[u8],
    id: &str,
    now: Millis,
) -> Result<SignatureHeaders, SignError> {
    let stamp = spec.timestamp.as_ref();
    let timestamp = stamp.map(|stamp| timestamp(stamp.unit, now)).transpose()?.unwrap_or_default();
    let tag = tag(spec.hash, spec.encoding, secret, &spec.signed, &timestamp, id, body)?;
    let mut headers = single_header(&spec.headers, format!("{}{tag}", spec.prefix))?;
    headers.extend(stamp.map(|stamp| (stamp.header.clone(), timestamp)));
    headers.extend(spec.id.clone().map(|name| (name, id.to_owned())));
    Ok(headers)
}

fn pairs(
    spec: &PairsSpec,
    secret: &Secret,
    body: &[u8],
    now: Millis,
) -> Result<SignatureHeaders, SignError> {
    let timestamp = timestamp(spec.unit, now)?;
    let tag = tag(spec.hash, spec.encoding, secret, &spec.signed, &timestamp, "", body)?;
    single_header(
        &spec.headers,
        format!("{}={timestamp},{}={tag}", spec.timestamp_key, spec.signature_key),
    )
}

fn standard_webhooks(
    spec: &StandardWebhooksSpec,
    secret: &Secret,
    body: &[u8],
    id: &str,
    now: Millis,
) -> Result<SignatureHeaders, SignError> {
    let set = spec.headers.first().ok_or(SignError::NotAHeader)?;
    let timestamp = timestamp(TimestampUnit::Seconds, now)?;
    let tag = tag(Hash::Sha256, Encoding::Base64, secret, &spec.signed, &timestamp, id, body)?;
    Ok(vec![
        (set.id.clone(), id.to_owned()),
        (set.timestamp.clone(), timestamp),
        (set.signature.clone(), format!("v1,{tag}")),
    ])
}

fn tag(
    hash: Hash,
    encoding: Encoding,
    secret: &Secret,
    template: &Template,
    timestamp: &str,
    id: &str,
    body: &[u8],
) -> Result<String, SignError> {
    let signed =
        SignedContent { template, timestamp: timestamp.as_bytes(), id: id.as_bytes(), body };
    let tag = Tag::of(hash, secret.expose(), &signed).ok_or(SignError::Key)?;
    Ok(match encoding {
        Encoding::Hex => hex::encode(tag.as_bytes()),
        Encoding::Base64 => STANDARD.encode(tag.as_bytes()),
    })
}

fn timestamp(unit: TimestampUnit, now: Millis) -> Result<String, SignError> {
    match unit {
        _ if now <= 0 => Err(SignError::Time),
        TimestampUnit::Seconds => Ok((now / 1000).to_string()),
        TimestampUnit::Millis => Ok(now.to_string()),
        TimestampUnit::Rfc3339 => Ok(clock::rfc3339(now)),
    }
}

#[derive(Serialize)]
struct NewTokenClaims<'a> {
    iss: &'a str,
    nbf: i64,
    exp: i64,
    sha256: String,
}

fn token(credential: &Credential, body: &[u8], now: Millis) -> Result<String, SignError> {
    let nbf = now.div_euclid(1000);
    let sha256 = STANDARD.encode(Sha256::digest(body));
    let claims = NewTokenClaims {
        iss: credential.key(),
        nbf,
        exp: nbf.saturating_add(TOKEN_LIFETIME_SECONDS),
        sha256,
    };
    let key = EncodingKey::from_secret(credential.secret().expose());
    encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| SignError::Key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::{VerifyError, verify};
    use super::*;
    use crate::platform::registry::Registry;

    const NOW: Millis = 1_767_225_600_123;

    fn scheme(signature: &str) -> Scheme {
        let credentials = signature.contains("livekit-jwt");
        let secrets = if credentials {
            "credentials = [{key = 'env:A', secret = 'env:A'}]"
        } else {
            "secrets = ['env:A']"
        };
        let toml = format!("[platforms.acme]\n{secrets}\n[platforms.acme.signature]\n{signature}");
        Registry::from_text("test", &toml).unwrap().get("acme").unwrap().scheme.clone()
    }

    /// Every scheme in each of its variants.
    fn schemes() -> Vec<Scheme> {
        let mut all: Vec<Scheme> =
            Registry::load(None).unwrap().iter().map(|platform| platform.scheme.clone()).collect();
        for hash in ["sha1", "sha256", "sha512"] {
            for encoding in ["hex", "base64"] {
                for (unit, signed) in [
                    ("s", "{id}.{timestamp}.{body}"),
                    ("ms", "v0:{timestamp}:{body}"),
                    ("rfc3339", "{id}{timestamp}{body}"),
                ] {
                    all.push(scheme(&format!(
                        "scheme = 'hmac'\nheader = ['x-signature', 'x-other']\nprefix = 'p='\n\
                         hash = '{hash}'\nencoding = '{encoding}'\n\
                         timestamp = 'header:x-time'\ntimestamp_unit = '{unit}'\n\
                         id = 'header:x-id'\nsigned = '{signed}'"
                    )));
                    all.push(scheme(&format!(
                        "scheme = 'pairs'\nheader = 'x-signature'\nhash = '{hash}'\n\
                         encoding = '{encoding}'\ntimestamp_unit = '{unit}'\n\
                         timestamp_key = 'time'\nsignature_key = 'sig1'\n\
                         signed = '{{timestamp}}.{{body}}'"
                    )));
                }
            }
        }
        for rest in ["standard-webhooks'", "livekit-jwt'", "shared-secret'\nheader = 'x-secret'"] {
            all.push(scheme(&format!("scheme = '{rest}")));
        }
        all
    }

    fn keys(scheme: &Scheme, texts: &[&str]) -> Keys {
        let secrets = texts.iter().map(|text| scheme.secret(&STANDARD.encode(text)).unwrap());
        if scheme.uses_credentials() {
            return Keys::Credentials(
                secrets.map(|secret| Credential::new("the key", &secret)).collect(),
            );
        }
        Keys::Secrets(secrets.collect())
    }

    #[test]
    fn signed_request_verifies_only_with_its_key_and_body() {
        for scheme in schemes() {
            let (ours, theirs) =
                (keys(&scheme, &["one key", "another"]), keys(&scheme, &["a third"]));
            let headers = sign(&scheme, &ours, b"{\"a\":1}", "id-1", NOW).unwrap();
            let verified = verify(&scheme, &ours, &headers, b"{\"a\":1}", NOW);
            assert!(verified.is_ok(), "{scheme:?}: {:?}", verified.err());
            assert!(
                verify(&scheme, &keys(&scheme, &["one key"]), &headers, b"{\"a\":1}", NOW).is_ok(),
                "the first key signs"
            );
            assert_eq!(
                verify(&scheme, &theirs, &headers, b"{\"a\":1}", NOW).err(),
                Some(VerifyError::Mismatch),
                "{scheme:?}"
            );
            if !matches!(scheme, Scheme::SharedSecret(_)) {
                assert!(verify(&scheme, &ours, &headers, b"{\"a\":2}", NOW).is_err(), "{scheme:?}");
            }
            for name in headers.iter().map(|(name, _)| name.as_str()) {
                assert!(scheme.headers().contains(&name), "{scheme:?} does not read {name}");
            }
        }
    }

    #[test]
    fn sign_reports_what_cannot_be_signed() {
        let scheme = scheme("scheme = 'shared-secret'\nheader = 'x-secret'");
        let secret = |bytes: &[u8]| Keys::Secrets(vec![Secret::new(bytes)]);
        for bad in [&b"line\nbreak"[..], b"\xff", b" blank"] {
            assert_eq!(sign(&scheme, &secret(bad), b"", "", NOW), Err(SignError::NotAHeader));
        }
        assert_eq!(sign(&scheme, &Keys::Secrets(Vec::new()), b"", "", NOW), Err(SignError::NoKey));
        assert_eq!(
            sign(&scheme, &Keys::Credentials(Vec::new()), b"", "", NOW),
            Err(SignError::NoKey)
        );
    }
}
