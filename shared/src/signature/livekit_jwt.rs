//! Verifies `livekit-jwt`: a short-lived JWT (HS256) with the base64 SHA-256 of the body in its
//! claim `sha256`.
//!
//! The header value is the token alone. `Bearer` is refused, as in LiveKit's own receivers. `iss`
//! must be the API key whose secret made the signature. `exp` is required, and `nbf` is checked if
//! present.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::headers::{Headers, each_signature_line};
use super::keys::Credential;
use super::mac::{Tag, constant_time_eq};
use super::spec::{Encoding, Hash, JwtSpec};
use super::verify_error::VerifyError;
use super::{CoveredHeaders, Millis};

/// Number of header lines that are checked.
const MAX_TOKENS: usize = 4;
/// Longest token. LiveKit's tokens have about 300 bytes.
const MAX_TOKEN_BYTES: usize = 8192;

#[derive(Deserialize)]
struct TokenClaims {
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
) -> Result<CoveredHeaders<'a>, VerifyError> {
    let (mut verdict, mut lines) = (Err(VerifyError::Missing), 0);
    each_signature_line(headers, &spec.headers, &mut |token| {
        lines += 1;
        if verdict.is_err() && lines <= MAX_TOKENS {
            let next = verify_token(spec, credentials, token, body, now);
            // If several tokens fail, the error of one that is valid except for its time is
            // returned.
            if !verdict.is_err_and(|refusal| refusal.is_valid_except_time()) || next.is_ok() {
                verdict = next;
            }
        }
    })?;
    verdict.map(|()| CoveredHeaders::default())
}

/// Verifies one token.
fn verify_token(
    spec: &JwtSpec,
    credentials: &[Credential],
    token: &[u8],
    body: &[u8],
    now: Millis,
) -> Result<(), VerifyError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(VerifyError::Malformed("token"));
    }
    let claims = decode_claims(credentials, token)?;

    let claimed = Tag::decode(Hash::Sha256, Encoding::Base64, claims.sha256.as_bytes());
    let valid =
        claimed.is_some_and(|claimed| constant_time_eq(claimed.as_bytes(), &Sha256::digest(body)));
    check_validity(&claims, now, spec.leeway, valid)?;
    if valid { Ok(()) } else { Err(VerifyError::BodyHashMismatch) }
}

/// Decodes the claims of a token that one of `credentials` signed and that names that credential as
/// its issuer.
fn decode_claims(credentials: &[Credential], token: &[u8]) -> Result<TokenClaims, VerifyError> {
    // The library does not check times: tests and the clock skew check need our own clock. The
    // issuer is compared with the credential below.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;

    for credential in credentials {
        match decode::<TokenClaims>(token, credential.decoding_key(), &validation) {
            Ok(token) if token.claims.iss == credential.key() => return Ok(token.claims),
            Ok(_) => {}
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
            Err(_) => return Err(VerifyError::Malformed("token")),
        }
    }
    Err(VerifyError::Mismatch)
}

fn check_validity(
    claims: &TokenClaims,
    now: Millis,
    leeway: Duration,
    signature_valid: bool,
) -> Result<(), VerifyError> {
    let current = now.div_euclid(1000);
    let leeway = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
    let limit = |received: i64| {
        let diff = current.saturating_sub(received).saturating_abs();
        Err(VerifyError::OutsideTolerance { received, current, diff, signature_valid })
    };
    // The cast saturates, so a limit beyond the range stays a limit.
    let (exp, nbf) = (claims.exp as i64, claims.nbf.map(|nbf| nbf as i64));
    if exp.saturating_add(leeway) < current {
        return limit(exp);
    }
    match nbf {
        Some(nbf) if nbf.saturating_sub(leeway) > current => limit(nbf),
        _ => Ok(()),
    }
}
