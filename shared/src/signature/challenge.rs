//! Computes the answer to a provider's challenge.

use super::headers::Headers;
use super::keys::Keys;
use super::mac::{SignedContent, Tag};
use super::spec::{Hash, Scheme};
use super::template::Template;
use super::{Millis, verify};

/// Returns the HMAC-SHA256 of `message` in hex. The key is the first secret that verifies this
/// request, because a provider that rotates its secret compares with the one it signs with. Returns
/// `None` if no secret verifies the request.
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

    /// Zoom publishes no secret for its example of `encryptedToken`. The figures are those of RFC
    /// 4231, case 2.
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
