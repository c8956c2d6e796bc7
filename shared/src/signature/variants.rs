//! Lists other encodings that a configured secret may have. Tools use them for hints; no request is
//! verified with them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::base64_text;
use super::keys::{Credential, Keys, Secret};

impl Keys {
    /// Returns keys that the operator may have meant, each with a description.
    #[must_use]
    pub fn variants(&self) -> Vec<(&'static str, Self)> {
        let mut found = Vec::new();
        match self {
            Self::Secrets(list) => {
                for (how, secret) in list.iter().flat_map(variants) {
                    found.push((how, Self::Secrets(vec![secret])));
                }
            }
            Self::Credentials(list) => {
                for credential in list {
                    for (how, secret) in variants(credential.secret()) {
                        let credential = Credential::new(credential.key(), &secret);
                        found.push((how, Self::Credentials(vec![credential])));
                    }
                }
            }
        }
        found
    }
}

fn variants(secret: &Secret) -> Vec<(&'static str, Secret)> {
    let bytes = secret.expose();
    let mut found = Vec::new();
    if let Ok(text) = std::str::from_utf8(bytes) {
        let bare = base64_text::without_version(text);
        let standard = bare.strip_prefix("whsec_");
        let trimmed = text.trim();
        found.extend([
            ("without white space around it", (trimmed != text).then(|| trimmed.into())),
            ("without whsec_ in front of it", standard.map(Into::into)),
            ("decoded from base64 behind whsec_", standard.and_then(base64_text::decode_secret)),
            (
                "decoded from base64 (secret_encoding = \"base64\")",
                base64_text::decode_secret(text),
            ),
            ("decoded from hex (secret_encoding = \"hex\")", hex::decode(text).ok()),
        ]);
    }
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        let text = engine.encode(bytes);
        let prefixed = format!("whsec_{text}");
        found.push((
            "as its text, not decoded from base64 (secret_encoding = \"utf8\")",
            Some(text.into()),
        ));
        found.push(("as its text, with whsec_ in front and not decoded", Some(prefixed.into())));
    }
    for text in [hex::encode(bytes), hex::encode_upper(bytes)] {
        found.push((
            "as its text, not decoded from hex (secret_encoding = \"utf8\")",
            Some(text.into()),
        ));
    }
    let usable = |(how, bytes): (_, Option<Vec<u8>>)| {
        bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| (how, Secret::new(bytes)))
    };
    found.into_iter().filter_map(usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(configured: &str, meant: &[u8]) -> Option<&'static str> {
        let found = variants(&Secret::new(configured));
        found.into_iter().find(|(_, secret)| secret.expose() == meant).map(|(how, _)| how)
    }

    #[test]
    fn secret_in_another_encoding_is_recognised() {
        for (configured, meant, expected) in [
            ("a2V5", b"key".as_slice(), "decoded from base64 (secret_encoding = \"base64\")"),
            ("6b6579", b"key", "decoded from hex (secret_encoding = \"hex\")"),
            ("v1,whsec_a2V5", b"key", "decoded from base64 behind whsec_"),
            ("whsec_a2V5", b"a2V5", "without whsec_ in front of it"),
            ("key", b"a2V5", "as its text, not decoded from base64 (secret_encoding = \"utf8\")"),
            ("key", b"6B6579", "as its text, not decoded from hex (secret_encoding = \"utf8\")"),
            ("key", b"whsec_a2V5", "as its text, with whsec_ in front and not decoded"),
        ] {
            assert_eq!(how(configured, meant), Some(expected), "{configured}");
        }
        assert_eq!(how("key", b"other"), None);
    }
}
