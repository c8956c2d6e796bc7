//! `livekit-jwt`: a short-lived JWT (HS256) whose `sha256` claim is the body's hash in padded standard base64.
//!
//! The token's text is the whole header value: `Bearer` is refused, as LiveKit's own receivers do. `iss` must be the
//! API key whose secret made the signature, and `exp` must be there; `nbf` counts if it is.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::headers::{Headers, signature};
use super::keys::Credential;
use super::mac::same;
use super::refusal::Refusal;
use super::spec::JwtSpec;
use super::{Covered, Millis};

/// Longest token; LiveKit's have some 300 bytes.
const MAX_TOKEN_BYTES: usize = 8192;

#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: f64,
    nbf: Option<f64>,
    sha256: String,
}

pub(super) fn verify<'a>(
    spec: &JwtSpec,
    credentials: &[Credential],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<Covered<'a>, Refusal> {
    let token = signature(headers, &spec.headers)?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed("token"));
    }
    let claims = genuine(credentials, token)?;

    let hash = STANDARD.encode(Sha256::digest(body));
    let valid = same(hash.as_bytes(), claims.sha256.as_bytes());
    within(&claims, now, spec.leeway, valid)?;
    if valid { Ok(Covered::default()) } else { Err(Refusal::BodyHashMismatch) }
}

/// The claims of a token that was made with one of `credentials` and names it as its issuer.
fn genuine(credentials: &[Credential], token: &[u8]) -> Result<Claims, Refusal> {
    // Times are checked by our own clock, which tests and the skew check control; the issuer with its credential.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;

    for credential in credentials {
        match decode::<Claims>(token, credential.decoding_key(), &validation) {
            Ok(token) if token.claims.iss == credential.key() => return Ok(token.claims),
            Ok(_) => {}
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
            Err(_) => return Err(Refusal::Malformed("token")),
        }
    }
    Err(Refusal::Mismatch)
}

fn within(claims: &Claims, now: Millis, leeway: Duration, signature_valid: bool) -> Result<(), Refusal> {
    let current = now.div_euclid(1000);
    let leeway = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
    let limit = |received: i64| {
        let diff = current.saturating_sub(received).saturating_abs();
        Err(Refusal::OutsideTolerance { received, current, diff, signature_valid })
    };
    // Saturates: a limit beyond all times stays one.
    let (exp, nbf) = (claims.exp as i64, claims.nbf.map(|nbf| nbf as i64));
    if exp.saturating_add(leeway) < current {
        return limit(exp);
    }
    match nbf {
        Some(nbf) if nbf.saturating_sub(leeway) > current => limit(nbf),
        _ => Ok(()),
    }
}
