//! `standard-webhooks`: HMAC-SHA256 over `{id}.{timestamp}.{body}` in base64, one `v1,…` among other words.

use super::headers::{Found, Headers, only};
use super::keys::Secret;
use super::mac::{Signed, Tag, any_matches};
use super::refusal::Refusal;
use super::spec::{Encoding, Hash, StandardHeaders, StandardWebhooksSpec, TimestampUnit};
use super::template::{Part, Template};
use super::{Covered, Millis, freshness};

/// Most words in a signature header.
const MAX_WORDS: usize = 32;

/// What the scheme signs.
pub(super) fn template() -> Template {
    let dot = || Part::Literal(".".to_owned());
    Template::new(vec![Part::Id, dot(), Part::Timestamp, dot(), Part::Body])
}

pub(super) fn verify<'a>(
    spec: &'a StandardWebhooksSpec,
    secrets: &[Secret],
    headers: &'a dyn Headers,
    body: &[u8],
    now: Millis,
) -> Result<Covered<'a>, Refusal> {
    let present = |set: &&StandardHeaders| headers.find(&set.signature) != Found::Absent;
    let set = spec.headers.iter().find(present).ok_or(Refusal::Missing)?;
    let signature = only(headers, &set.signature, "signature header")?;
    let id = only(headers, &set.id, "id header")?;
    let timestamp = only(headers, &set.timestamp, "timestamp header")?;
    if id.is_empty() {
        return Err(Refusal::Malformed("empty id"));
    }
    let at = freshness::timestamp(TimestampUnit::Seconds, timestamp)?;

    let words = signature.split(|b| *b == b' ').take(MAX_WORDS);
    let candidates: Vec<Tag> =
        words.filter_map(|word| Tag::decode(Hash::Sha256, Encoding::Base64, word.strip_prefix(b"v1,")?)).collect();
    let signed = Signed { template: &spec.signed, timestamp, id, body };
    if !any_matches(Hash::Sha256, secrets, &signed, &candidates) {
        return Err(Refusal::Mismatch);
    }
    freshness::check(at, now, spec.tolerance, true)?;
    Ok([Some(&set.id), Some(&set.timestamp)])
}
