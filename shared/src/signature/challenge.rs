//! Showing a provider that its secret is known here.

use super::headers::Headers;
use super::keys::Keys;
use super::mac::{SignedContent, Tag};
use super::spec::{Hash, Scheme};
use super::template::Template;
use super::{Millis, verify};

/// HMAC-SHA256 of `message` in hex, with the first secret that verifies this request: while secrets are rotated, the
/// provider compares with the one that it signs with. `None`: no secret verifies it.
#[must_use]
pub fn challenge_response(
    scheme: &Scheme,
    keys: &Keys,
    headers: &dyn Headers,
    body: &[u8],
    now: Millis,
    message: &str,
) -> Option<String> {
    let Keys::Secrets(secrets) = keys else { return None };
    let verifies = |keys: Keys| verify(scheme, &keys, headers, body, now).is_ok();
    let secret = secrets.iter().find(|secret| verifies(Keys::Secrets(vec![(*secret).clone()])))?;
    let template = Template::body();
    let signed =
        SignedContent { template: &template, timestamp: b"", id: b"", body: message.as_bytes() };
    Tag::of(Hash::Sha256, secret.expose(), &signed).map(|tag| hex::encode(tag.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::keys::Secret;
    use super::super::spec::SharedSecretSpec;
    use super::*;

    /// Zoom's own example of `encryptedToken` has no published secret; this is RFC 4231, case 2.
    #[test]
    fn challenge_response_uses_the_secret_that_verifies() {
        let scheme =
            Scheme::SharedSecret(SharedSecretSpec { headers: vec!["x-secret".to_owned()] });
        let keys = Keys::Secrets(vec![Secret::new("new"), Secret::new("Jefe")]);
        let prove = |secret: &str| {
            let headers = [("x-secret", secret)];
            challenge_response(
                &scheme,
                &keys,
                &headers.to_vec(),
                b"{}",
                0,
                "what do ya want for nothing?",
            )
        };
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(prove("Jefe").as_deref(), Some(known));
        assert!(prove("new").is_some_and(|other| other != known));
        assert_eq!(prove("other"), None);
    }
}
