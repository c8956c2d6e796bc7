//! Verifies a captured request, and explains a failure.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use shared::event::Millis;
use shared::json::{self, Document};
use shared::platform::InvalidRequestPolicy;
use shared::signature::{
    Encoding, Hash, HeaderLookup, Headers, Keys, Scheme, SecretEncoding, Template, Verified,
    VerifyError, verify,
};

use super::capture::{Capture, without_mark};
use crate::pipeline::content_encoding::{
    ContentDecodeError, ContentEncoding, UnsupportedEncodingError,
};

/// Report about the signature.
#[derive(Debug, Serialize)]
pub(super) struct SignatureReport {
    pub(super) scheme: &'static str,
    /// Signed content and algorithm.
    pub(super) computed: String,
    /// Encoding of the secret.
    pub(super) secret_as: &'static str,
    /// `wire` or `decoded`: the bytes that verify.
    pub(super) over: Option<&'static str>,
    pub(super) body_bytes: usize,
    /// Hash of the captured body, to compare with the sender's.
    pub(super) body_sha256: String,
    /// Number of keys, and number of the verifying key, from 1.
    pub(super) keys: usize,
    pub(super) key: Option<usize>,
    pub(super) tolerance_s: Option<u64>,
    /// This host's time, in seconds since the epoch.
    pub(super) current: i64,
    /// Time of the request and its distance from `current`, if that is the reason of a refusal.
    pub(super) received: Option<i64>,
    pub(super) diff_s: Option<i64>,
    pub(super) headers: Vec<HeaderReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct HeaderReport {
    pub(super) name: String,
    /// `absent`, `there` or `several times`.
    pub(super) found: &'static str,
}

/// Verdict about the signature of a capture.
pub(super) struct SignatureVerdict<'a> {
    /// Verified request with its decoded body, or the reason why it does not verify.
    pub(super) verified: Result<(Verified<'a>, &'a Bytes), String>,
    /// Hints.
    pub(super) notes: Vec<String>,
    /// Report about the signature.
    pub(super) report: SignatureReport,
}

/// Capture to verify, with its context.
#[derive(Clone, Copy)]
pub(super) struct SignatureCheck<'a> {
    pub(super) scheme: &'a Scheme,
    pub(super) keys: &'a Keys,
    pub(super) capture: &'a Capture,
    /// Body decoded as its `Content-Encoding` says; see [`decode`].
    pub(super) decoded: &'a DecodedCapture,
    pub(super) at: Millis,
    pub(super) max_body: usize,
    /// Treatment of verified requests that are no usable events.
    pub(super) invalid: InvalidRequestPolicy,
}

/// Captured body after decoding. `Ok(None)`: it is not encoded.
pub(super) type DecodedCapture =
    Result<Option<Result<Bytes, ContentDecodeError>>, UnsupportedEncodingError>;

/// Decodes the body of `capture`.
pub(super) fn decode(capture: &Capture, max_body: usize) -> DecodedCapture {
    let encodings = capture.headers.iter().filter(|(name, _)| name == "content-encoding");
    let coding = ContentEncoding::named(encodings.map(|(_, value)| value.as_slice()))?;
    Ok(coding.map(|coding| coding.decode(&capture.body, max_body).map(Bytes::from)))
}

impl<'a> SignatureCheck<'a> {
    /// Verifies as ingress does.
    pub(super) fn answer(self) -> SignatureVerdict<'a> {
        let mut report = self.facts();
        let mut notes = Vec::new();
        let verified = self.verify_as_ingress(&mut report, &mut notes);
        SignatureVerdict { verified, notes, report }
    }

    fn verify_as_ingress(
        self,
        report: &mut SignatureReport,
        notes: &mut Vec<String>,
    ) -> Result<(Verified<'a>, &'a Bytes), String> {
        let too_large =
            || format!("the body is larger than MAX_BODY_BYTES ({}) as sent (413)", self.max_body);
        let wire = &self.capture.body;
        if !matches!(self.decoded, Ok(None))
            && wire.len() <= self.max_body
            && Document::parse_text(&json::text(wire)).is_ok()
            && let Ok(verified) = self.verify(wire)
        {
            notes.push(
                "the bytes as sent verify and are JSON: Content-Encoding is ignored".to_owned(),
            );
            return Ok((self.verified(verified, "wire", report), wire));
        }
        let Ok(decoded) = self.decoded else {
            let wrong = "Content-Encoding must be one of gzip, zstd and br";
            return Err(self.undecodable(
                wire.len() <= self.max_body && self.verify(wire).is_ok(),
                wrong,
                415,
            ));
        };
        if wire.len() > self.max_body {
            return Err(too_large());
        }
        let refusal = match (self.verify(wire), decoded) {
            (Err(refusal), Some(_)) if !refusal.depends_on_body() => refusal,
            (verified, Some(Err(ContentDecodeError::TooLarge))) => {
                let wrong = format!(
                    "the body is larger than MAX_BODY_BYTES ({}) once decoded",
                    self.max_body
                );
                return Err(self.undecodable(verified.is_ok(), &wrong, 413));
            }
            (Ok(verified), None) => return Ok((self.verified(verified, "wire", report), wire)),
            (Ok(verified), Some(Ok(body))) => {
                return Ok((self.verified(verified, "wire", report), body));
            }
            (Ok(_), Some(Err(ContentDecodeError::Malformed))) => {
                return Err(self.undecodable(
                    true,
                    "the body does not match Content-Encoding",
                    400,
                ));
            }
            (Err(_), Some(Ok(body))) => match self.verify(body) {
                Ok(verified) => return Ok((self.verified(verified, "decoded", report), body)),
                Err(refusal) => refusal,
            },
            (Err(refusal), Some(Err(ContentDecodeError::Malformed))) => {
                notes.push(
                    "the body does not match Content-Encoding; if a tool has decoded it, leave \
                     that header out"
                        .to_owned(),
                );
                refusal
            }
            (Err(refusal), None) => refusal,
        };
        if let VerifyError::OutsideTolerance { received, diff, .. } = refusal {
            (report.received, report.diff_s) = (Some(received), Some(diff));
        }
        notes.extend(self.hints(refusal));
        Err(self.reason(refusal))
    }

    /// Returns the reason for a body that cannot be decoded. `verifies`: the bytes as sent verify.
    fn undecodable(self, verifies: bool, wrong: &str, status: u16) -> String {
        match (verifies, self.invalid) {
            (true, InvalidRequestPolicy::Keep) => {
                format!("the signature verifies, but {wrong} (kept as a dead letter)")
            }
            (true, InvalidRequestPolicy::Refuse) => {
                format!("the signature verifies, but {wrong} ({status})")
            }
            (false, _) => format!("{wrong} ({status})"),
        }
    }

    fn verify(self, body: &'a [u8]) -> Result<Verified<'a>, VerifyError> {
        verify(self.scheme, self.keys, &self.capture.headers, body, self.at)
    }

    fn verified(
        self,
        verified: Verified<'a>,
        over: &'static str,
        report: &mut SignatureReport,
    ) -> Verified<'a> {
        let single: Vec<Keys> = match self.keys {
            Keys::Secrets(list) => {
                list.iter().map(|one| Keys::Secrets(vec![one.clone()])).collect()
            }
            Keys::Credentials(list) => {
                list.iter().map(|one| Keys::Credentials(vec![one.clone()])).collect()
            }
        };
        let fits = |keys: &Keys| {
            verify(self.scheme, keys, &self.capture.headers, verified.body(), self.at).is_ok()
        };
        (report.over, report.key) = (Some(over), single.iter().position(fits).map(|at| at + 1));
        verified
    }

    fn facts(self) -> SignatureReport {
        let headers = self.scheme.headers().into_iter().map(|name| HeaderReport {
            found: match self.capture.headers.find(name) {
                HeaderLookup::Absent => "absent",
                HeaderLookup::One(_) => "there",
                HeaderLookup::Several => "several times",
            },
            name: name.to_owned(),
        });
        let (scheme, computed, secret_as) = described(self.scheme);
        SignatureReport {
            scheme,
            computed,
            secret_as,
            over: None,
            body_bytes: self.capture.body.len(),
            body_sha256: hex::encode(Sha256::digest(&self.capture.body)),
            keys: match self.keys {
                Keys::Secrets(list) => list.len(),
                Keys::Credentials(list) => list.len(),
            },
            key: None,
            tolerance_s: tolerance(self.scheme).map(|tolerance| tolerance.as_secs()),
            current: self.at.div_euclid(1000),
            received: None,
            diff_s: None,
            headers: headers.collect(),
        }
    }

    fn reason(self, refusal: VerifyError) -> String {
        let names = || self.scheme.headers().join(", ");
        match refusal {
            VerifyError::Missing => {
                format!("no signature header; this platform reads: {}", names())
            }
            VerifyError::Malformed(what) => {
                let headers = self.beside_the_signature().into_iter();
                let absent: Vec<_> = headers
                    .filter(|name| self.capture.headers.find(name) == HeaderLookup::Absent)
                    .collect();
                let missing = if absent.is_empty() {
                    String::new()
                } else {
                    format!("; absent: {}", absent.join(", "))
                };
                let written = written(self.scheme).filter(|_| what.contains("signature"));
                let expected = written
                    .map(|form| format!("; the definition expects {form}"))
                    .unwrap_or_default();
                format!("a header is malformed: {what}{expected}{missing}")
            }
            VerifyError::Mismatch => {
                format!("no key makes this signature over {}", described(self.scheme).1)
            }
            VerifyError::BodyHashMismatch => {
                "the token verifies, but was made for another body".to_owned()
            }
            VerifyError::OutsideTolerance { received, current, diff, signature_valid } => {
                let allowed = tolerance(self.scheme).map_or(0, |tolerance| tolerance.as_secs());
                let side = if received < current { "behind" } else { "ahead of" };
                let rest = if signature_valid {
                    "apart from that it verifies"
                } else {
                    "the signature does not verify either"
                };
                format!(
                    "its time {received} is {diff} s {side} {current}, and {allowed} s are \
                     allowed; {rest}"
                )
            }
        }
    }

    /// Returns the headers that the scheme needs besides the signature.
    fn beside_the_signature(self) -> Vec<&'a str> {
        match self.scheme {
            Scheme::Hmac(spec) => {
                let timestamp = spec.timestamp.as_ref().map(|stamp| stamp.header.as_str());
                timestamp.into_iter().chain(spec.id.as_deref()).collect()
            }
            Scheme::StandardWebhooks(spec) => {
                let present = |name: &str| self.capture.headers.find(name) != HeaderLookup::Absent;
                let set = spec.headers.iter().find(|set| present(&set.signature));
                set.into_iter().flat_map(|set| [set.id.as_str(), set.timestamp.as_str()]).collect()
            }
            Scheme::Pairs(_) | Scheme::LivekitJwt(_) | Scheme::SharedSecret(_) => Vec::new(),
        }
    }

    /// Returns hints about common damage of captures.
    fn hints(self, refusal: VerifyError) -> Vec<String> {
        if refusal.is_valid_except_time() {
            return vec!["pass the time of receipt with --at".to_owned()];
        }
        if !refusal.depends_on_body() {
            return Vec::new();
        }
        let body = &self.capture.body[..];
        let verifies = |keys: &Keys, body: &[u8]| match verify(
            self.scheme,
            keys,
            &self.capture.headers,
            body,
            self.at,
        ) {
            Ok(_) => true,
            Err(refusal) => refusal.is_valid_except_time(),
        };
        let genuine = |body: &[u8]| verifies(self.keys, body);
        let unix = String::from_utf8_lossy(body).replace("\r\n", "\n");
        let without_end = without_line_end(body);
        let unmarked = without_mark(body);
        let unmarked = (*unmarked != *body).then_some(&*unmarked);
        let tries = [
            (
                unmarked.map(<[u8]>::to_vec),
                "without the byte order mark at its beginning, in UTF-8",
            ),
            (
                unmarked.and_then(without_line_end).map(<[u8]>::to_vec),
                "without the byte order mark at its beginning and the line break at its end, in \
                 UTF-8",
            ),
            (
                without_end.map(<[u8]>::to_vec),
                "without the line break at its end, which was not sent",
            ),
            (Some([body, b"\n"].concat()), "with a line break at its end, which the capture lacks"),
            (
                Some(unix.replace('\n', "\r\n").into_bytes()),
                "with CRLF line breaks, which the capture has changed",
            ),
            (Some(unix.into_bytes()), "with LF line breaks, which the capture has changed"),
            (
                compact(body),
                "without the white space between its values, which the capture has added",
            ),
        ];
        let mut found = tries
            .into_iter()
            .filter_map(|(body, how)| body.filter(|body| genuine(body)).map(|_| how));
        if let Some(how) = found.next() {
            return vec![format!("the signature verifies over the body {how}")];
        }
        let meant = self.keys.variants().into_iter().find(|(_, keys)| verifies(keys, body));
        meant
            .map(|(how, _)| format!("the signature verifies with the secret {how}"))
            .into_iter()
            .collect()
    }
}

/// Returns `body` without its final line break. `None`: it has none.
fn without_line_end(body: &[u8]) -> Option<&[u8]> {
    body.strip_suffix(b"\n").map(|body| body.strip_suffix(b"\r").unwrap_or(body))
}

/// Returns JSON without white space between its values.
fn compact(body: &[u8]) -> Option<Vec<u8>> {
    let (mut text, mut escaped) = (false, false);
    let kept = body.iter().copied().filter(|byte| {
        let keep = text || !byte.is_ascii_whitespace();
        (text, escaped) = match byte {
            b'"' if !escaped => (!text, false),
            b'\\' if text => (text, !escaped),
            _ => (text, false),
        };
        keep
    });
    Some(kept.collect()).filter(|compact: &Vec<u8>| compact != body)
}

fn tolerance(scheme: &Scheme) -> Option<Duration> {
    match scheme {
        Scheme::Hmac(spec) => spec.tolerance,
        Scheme::Pairs(spec) => spec.tolerance,
        Scheme::StandardWebhooks(spec) => Some(spec.tolerance),
        Scheme::LivekitJwt(spec) => Some(spec.leeway),
        Scheme::SharedSecret(_) => None,
    }
}

/// Describes the form of the signature in its header, if the definition chooses it.
fn written(scheme: &Scheme) -> Option<String> {
    let length = |hash, encoding| {
        let bytes: usize = match hash {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha512 => 64,
        };
        match encoding {
            Encoding::Hex => format!("{} characters of hex", 2 * bytes),
            Encoding::Base64 => format!("{} characters of base64", bytes.div_ceil(3) * 4),
        }
    };
    match scheme {
        Scheme::Hmac(spec) if spec.prefix.is_empty() => Some(length(spec.hash, spec.encoding)),
        Scheme::Hmac(spec) => {
            Some(format!("`{}` and {}", spec.prefix, length(spec.hash, spec.encoding)))
        }
        Scheme::Pairs(spec) => {
            let (time, signature) = (&spec.timestamp_key, &spec.signature_key);
            Some(format!("`{time}=…,{signature}=` and {}", length(spec.hash, spec.encoding)))
        }
        Scheme::StandardWebhooks(_) | Scheme::LivekitJwt(_) | Scheme::SharedSecret(_) => None,
    }
}

/// Returns the scheme's name, its signed content, and the encoding of the secret.
fn described(scheme: &Scheme) -> (&'static str, String, &'static str) {
    let secret = |encoding| match encoding {
        SecretEncoding::Utf8 => "its text's bytes",
        SecretEncoding::Base64 => "base64 of the key",
        SecretEncoding::Hex => "hex of the key",
    };
    let mac = |hash, encoding, signed: &Template| {
        let hash = match hash {
            Hash::Sha1 => "SHA-1",
            Hash::Sha256 => "SHA-256",
            Hash::Sha512 => "SHA-512",
        };
        let encoding = if encoding == Encoding::Hex { "hex" } else { "base64" };
        format!("{signed} (HMAC-{hash}, {encoding})")
    };
    match scheme {
        Scheme::Hmac(spec) => {
            ("hmac", mac(spec.hash, spec.encoding, &spec.signed), secret(spec.secret_encoding))
        }
        Scheme::Pairs(spec) => {
            ("pairs", mac(spec.hash, spec.encoding, &spec.signed), secret(spec.secret_encoding))
        }
        Scheme::StandardWebhooks(_) => (
            "standard-webhooks",
            "{id}.{timestamp}.{body} (HMAC-SHA-256, base64)".to_owned(),
            "base64 of the key, after whsec_",
        ),
        Scheme::LivekitJwt(_) => (
            "livekit-jwt",
            "the token (JWT, HS256), whose claim sha256 is {body}'s hash in base64".to_owned(),
            secret(SecretEncoding::Utf8),
        ),
        Scheme::SharedSecret(_) => (
            "shared-secret",
            "nothing: the header is the secret itself".to_owned(),
            secret(SecretEncoding::Utf8),
        ),
    }
}
