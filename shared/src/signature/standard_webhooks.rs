//! Verifies `standard-webhooks`: HMAC-SHA256 over `{id}.{timestamp}.{body}` in base64, as `v1,…` in
//! a list.

use super::headers::{Headers, single_header, unquote};
use super::keys::Secret;
use super::mac::{Candidates, SignedContent, any_matches};
use super::spec::{Encoding, Hash, StandardHeaders, StandardWebhooksSpec, TimestampUnit};
use super::template::{Template, TemplatePart};
use super::verify_error::VerifyError;
use super::{CoveredHeaders, Millis, timestamp};

/// Number of words that are read. A word is a version or a signature.
const MAX_WORDS: usize = 64;

/// Words of all lines of the signature header.
#[derive(Default)]
struct SignatureWords {
    lines: usize,
    count: usize,
    signatures: Candidates,
}

impl SignatureWords {
    /// Adds a line such as `v1,g0hM… v1,bm9l…`. Proxies join lines with commas, so commas and
    /// blanks both separate words. The word after `v1` is a signature.
    fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        let mut version: &[u8] = b"";
        let words = line.split(|b| *b == b',' || b.is_ascii_whitespace());
        for word in words.map(unquote).filter(|word| !word.is_empty()) {
            self.count += 1;
            if self.count > MAX_WORDS {
                return;
            }
            if version == b"v1" {
                self.signatures.add(Hash::Sha256, Encoding::Base64, word);
            }
            version = word;
        }
    }
}

/// Returns the signed content of the scheme.
pub(super) fn template() -> Template {
    let dot = || TemplatePart::Literal(".".to_owned());
    Template::new(vec![TemplatePart::Id, dot(), TemplatePart::Timestamp, dot(), TemplatePart::Body])
}

pub(super) fn verify<'a>(
    spec: &'a StandardWebhooksSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<CoveredHeaders<'a>, VerifyError> {
    let mut words = SignatureWords::default();
    let present = |set: &&StandardHeaders| {
        headers.each(&set.signature, &mut |line| words.add(line));
        words.lines > 0
    };
    let set = spec.headers.iter().find(present).ok_or(VerifyError::Missing)?;
    let id = single_header(headers, &set.id, "id header")?;
    let timestamp = single_header(headers, &set.timestamp, "timestamp header")?;
    if id.is_empty() {
        return Err(VerifyError::Malformed("empty id"));
    }
    let at = timestamp::parse(TimestampUnit::Seconds, timestamp)?;

    let signed = SignedContent { template: &spec.signed, timestamp, id, body };
    if !any_matches(Hash::Sha256, secrets, &signed, &words.signatures) {
        return Err(VerifyError::Mismatch);
    }
    timestamp::check(at, now, spec.tolerance, true)?;
    Ok([Some(&set.id), Some(&set.timestamp)])
}
