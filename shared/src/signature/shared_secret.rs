//! `shared-secret`: the header is the secret itself. It proves who sent the request once, and nothing about the body.

use sha2::{Digest, Sha256};

use super::Covered;
use super::headers::{Headers, signatures};
use super::keys::Secret;
use super::mac::same;
use super::refusal::Refusal;
use super::spec::SharedSecretSpec;

/// Most lines of the header that are checked.
const MAX_LINES: usize = 16;

pub(super) fn verify<'a>(
    spec: &SharedSecretSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
) -> Result<Covered<'a>, Refusal> {
    let (mut verified, mut lines) = (false, 0);
    signatures(headers, &spec.headers, &mut |line| {
        lines += 1;
        if lines <= MAX_LINES {
            verified |= is_one(secrets, line);
        }
    })?;
    if verified { Ok(Covered::default()) } else { Err(Refusal::Mismatch) }
}

/// Returns true if `sent` is one of `secrets`. Hashes are compared, so that not even the secret's
/// length shows.
fn is_one(secrets: &[Secret], sent: &[u8]) -> bool {
    let sent = Sha256::digest(sent);
    secrets
        .iter()
        .fold(false, |found, secret| found | same(&Sha256::digest(secret.expose()), &sent))
}
