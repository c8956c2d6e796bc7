//! Verifies the signatures of webhook requests.
//!
//! # Guarantees
//!
//! - A [`Verified`] exists only if one of the platform's keys signed the body
//!   (`request_with_a_changed_byte_is_refused`, `keys_of_the_wrong_kind_verify_nothing`).
//! - The time of the request is within the scheme's tolerance
//!   (`request_verifies_exactly_within_the_tolerance`).
//! - Only [`verify`] creates a [`Verified`], so an unverified request cannot be identified or
//!   queued (`arbitrary_requests_never_verify_or_panic`).
//! - Reading a header that the signature does not cover needs an explicit call
//!   (`covered_headers_are_told_from_unsigned_ones`).
//!
//! # Design
//!
//! The verifiers of the vendors differ. Here the same rules hold for every scheme:
//!
//! - Several signatures, in one header or in several lines of it, are alternatives (rotation). At
//!   most 16 of them are checked. Signatures of an unknown scheme are skipped.
//! - Blanks around list elements are ignored. So are the case of hex and of a prefix, and the
//!   alphabet and padding of base64.
//! - Two different times are refused. So are two lines of a header that the signature covers.
//! - Signs and leading zeros in a time are refused. So are times beyond the tolerance in either
//!   direction.

pub(crate) mod base64_text;
mod challenge;
mod headers;
mod hmac;
mod keys;
mod livekit_jwt;
mod mac;
mod pairs;
mod shared_secret;
mod sign;
mod spec;
mod standard_webhooks;
mod template;
mod timestamp;
mod validate;
mod variants;
mod verify_error;

pub use challenge::challenge_response;
pub use headers::{HeaderLookup, Headers};
pub use keys::{Credential, Keys, Secret, SecretError};
pub use sign::{SignError, SignatureHeaders, sign};
pub use spec::{
    Encoding, Hash, HmacSpec, JwtSpec, PairsSpec, Scheme, SchemeError, SecretEncoding,
    SharedSecretSpec, StandardHeaders, StandardWebhooksSpec, TimestampHeader, TimestampUnit,
};
pub use template::{Template, TemplateError, TemplatePart};
pub use verify_error::VerifyError;

use crate::event::Millis;

/// Names of the headers that a signature covers.
type CoveredHeaders<'a> = [Option<&'a str>; 2];

/// A request with a valid signature.
#[derive(Clone, Copy)]
pub struct Verified<'a> {
    scheme: &'a Scheme,
    covered: CoveredHeaders<'a>,
    headers: &'a dyn Headers,
    body: &'a [u8],
}

/// Verifies the signature over `body` at the time `now`. Keys of the wrong kind verify nothing.
///
/// # Errors
/// Returns a [`VerifyError`] if no key verifies the request.
pub fn verify<'a>(
    scheme: &'a Scheme,
    keys: &Keys,
    headers: &'a dyn Headers,
    body: &'a [u8],
    now: Millis,
) -> Result<Verified<'a>, VerifyError> {
    let (secrets, credentials) = match keys {
        Keys::Secrets(secrets) => (secrets.as_slice(), [].as_slice()),
        Keys::Credentials(credentials) => ([].as_slice(), credentials.as_slice()),
    };
    let covered = match scheme {
        Scheme::Hmac(spec) => hmac::verify(spec, secrets, headers, body, now),
        Scheme::Pairs(spec) => pairs::verify(spec, secrets, headers, body, now),
        Scheme::StandardWebhooks(spec) => {
            standard_webhooks::verify(spec, secrets, headers, body, now)
        }
        Scheme::LivekitJwt(spec) => livekit_jwt::verify(spec, credentials, headers, body, now),
        Scheme::SharedSecret(spec) => shared_secret::verify(spec, secrets, headers),
    }?;
    Ok(Verified { scheme, covered, headers, body })
}

impl<'a> Verified<'a> {
    /// The signed body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Returns the header `name` (lower case) if the signature covers it and it is text. A scheme
    /// may know several names for one header (`webhook-id`, `svix-id`). Each of them returns the
    /// one that this request was signed with.
    #[must_use]
    pub fn signed_header(&self, name: &str) -> Option<&'a str> {
        match self.scheme.role(name) {
            Some(role) => self.unsigned_header(self.covered[role]?),
            None if self.covered.contains(&Some(name)) => self.unsigned_header(name),
            None => None,
        }
    }

    /// Returns the header `name` (lower case) if it is present once and is text, covered by the
    /// signature or not. A proxy may have changed an uncovered header.
    #[must_use]
    pub fn unsigned_header(&self, name: &str) -> Option<&'a str> {
        match self.headers.find(name) {
            HeaderLookup::One(value) => std::str::from_utf8(value).ok(),
            HeaderLookup::Absent | HeaderLookup::Several => None,
        }
    }
}

impl Scheme {
    /// Name of the scheme in definitions.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "hmac",
            Self::Pairs(_) => "pairs",
            Self::StandardWebhooks(_) => "standard-webhooks",
            Self::LivekitJwt(_) => "livekit-jwt",
            Self::SharedSecret(_) => "shared-secret",
        }
    }

    /// Names of all headers that the scheme reads, in lower case, signature headers first.
    #[must_use]
    pub fn headers(&self) -> Vec<&str> {
        let mut names = self.signature_headers();
        match self {
            Self::Hmac(spec) => {
                names.extend(spec.timestamp.as_ref().map(|stamp| stamp.header.as_str()));
                names.extend(spec.id.as_deref());
            }
            Self::StandardWebhooks(spec) => {
                names.extend(spec.headers.iter().flat_map(|set| [&*set.id, &*set.timestamp]));
            }
            Self::Pairs(_) | Self::LivekitJwt(_) | Self::SharedSecret(_) => {}
        }
        names
    }

    fn signature_headers(&self) -> Vec<&str> {
        match self {
            Self::Hmac(HmacSpec { headers, .. })
            | Self::Pairs(PairsSpec { headers, .. })
            | Self::LivekitJwt(JwtSpec { headers, .. })
            | Self::SharedSecret(SharedSecretSpec { headers }) => {
                headers.iter().map(String::as_str).collect()
            }
            Self::StandardWebhooks(spec) => {
                spec.headers.iter().map(|set| set.signature.as_str()).collect()
            }
        }
    }

    /// Index of the covered header that `name` is another name for.
    fn role(&self, name: &str) -> Option<usize> {
        let Self::StandardWebhooks(spec) = self else { return None };
        if spec.headers.iter().any(|set| set.id == name) {
            return Some(0);
        }
        spec.headers.iter().any(|set| set.timestamp == name).then_some(1)
    }

    /// Returns true if a signature of this scheme can cover the header `name` (lower case).
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Hmac(spec) => hmac::covered(spec).contains(&Some(name)),
            Self::StandardWebhooks(spec) => {
                spec.headers.iter().any(|set| set.id == name || set.timestamp == name)
            }
            Self::Pairs(_) | Self::LivekitJwt(_) | Self::SharedSecret(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
