//! `standard-webhooks`: HMAC-SHA256 over `{id}.{timestamp}.{body}` in base64, one `v1,…` among other words.

use super::headers::{Headers, bare, only};
use super::keys::Secret;
use super::mac::{Candidates, Signed, Tag, any_matches};
use super::refusal::Refusal;
use super::spec::{Encoding, Hash, StandardHeaders, StandardWebhooksSpec, TimestampUnit};
use super::template::{Part, Template};
use super::{Covered, Millis, freshness};

/// Most words that are read: a version or a signature each.
const MAX_WORDS: usize = 64;

/// The words of all lines of the signature header.
#[derive(Default)]
struct Words {
    lines: usize,
    count: usize,
    signatures: Candidates,
}

impl Words {
    /// Adds a line such as `v1,g0hM… v1,bm9l…`. Proxies that join lines put commas between them, so
    /// commas and blanks separate alike: a word behind `v1` is a signature.
    fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        let mut version: &[u8] = b"";
        let words = line.split(|b| *b == b',' || b.is_ascii_whitespace());
        for word in words.map(bare).filter(|word| !word.is_empty()) {
            self.count += 1;
            if self.count > MAX_WORDS {
                return;
            }
            if version == b"v1"
                && let Some(tag) = Tag::decode(Hash::Sha256, Encoding::Base64, word)
            {
                self.signatures.add(tag);
            }
            version = word;
        }
    }
}

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
    let mut words = Words::default();
    let present = |set: &&StandardHeaders| {
        headers.each(&set.signature, &mut |line| words.add(line));
        words.lines > 0
    };
    let set = spec.headers.iter().find(present).ok_or(Refusal::Missing)?;
    let id = only(headers, &set.id, "id header")?;
    let timestamp = only(headers, &set.timestamp, "timestamp header")?;
    if id.is_empty() {
        return Err(Refusal::Malformed("empty id"));
    }
    let at = freshness::timestamp(TimestampUnit::Seconds, timestamp)?;

    let signed = Signed { template: &spec.signed, timestamp, id, body };
    if !any_matches(Hash::Sha256, secrets, &signed, &words.signatures) {
        return Err(Refusal::Mismatch);
    }
    freshness::check(at, now, spec.tolerance, true)?;
    Ok([Some(&set.id), Some(&set.timestamp)])
}
