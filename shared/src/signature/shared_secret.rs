//! Verifies `shared-secret`: the header is the secret itself. It authenticates the sender, but does
//! not protect the body.

use sha2::{Digest, Sha256};

use super::CoveredHeaders;
use super::headers::{Headers, each_signature_line};
use super::keys::Secret;
use super::mac::constant_time_eq;
use super::spec::SharedSecretSpec;
use super::verify_error::VerifyError;

/// Number of header lines that are checked.
const MAX_LINES: usize = 16;

pub(super) fn verify<'a>(
    spec: &SharedSecretSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
) -> Result<CoveredHeaders<'a>, VerifyError> {
    let (mut verified, mut lines) = (false, 0);
    each_signature_line(headers, &spec.headers, &mut |line| {
        lines += 1;
        if lines <= MAX_LINES {
            verified |= is_one(secrets, line);
        }
    })?;
    if verified { Ok(CoveredHeaders::default()) } else { Err(VerifyError::Mismatch) }
}

/// Returns true if `sent` is one of `secrets`. Hashes are compared, so that the time does not even
/// show the length of the secret.
fn is_one(secrets: &[Secret], sent: &[u8]) -> bool {
    let sent = Sha256::digest(sent);
    secrets.iter().fold(false, |found, secret| {
        found | constant_time_eq(&Sha256::digest(secret.expose()), &sent)
    })
}
