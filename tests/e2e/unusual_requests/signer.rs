//! Computes the signatures of the cases, independently of the product.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha1::Sha1;
use sha2::Sha256;
use tests::sender::now;

/// Signing scheme of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signing {
    #[serde(rename = "scheme")]
    _scheme: String,
    header: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    hash: Option<String>,
    encoding: String,
    /// Text that the signature covers, with `{body}` and `{timestamp}` filled in.
    signed: String,
    pub(super) secret: String,
    /// Value of the header: `{v}` is the signature, `{other}` one with another secret, `{t}` the
    /// time.
    format: Option<String>,
    #[serde(rename = "unit")]
    _unit: Option<String>,
    timestamp_header: Option<String>,
}

impl Signing {
    /// Returns the headers that sign `body` now.
    pub(super) fn headers(&self, body: &[u8]) -> Vec<(String, String)> {
        let at = now().to_string();
        let message = self.message(body, &at);
        let (own, other) = (self.mac(&self.secret, &message), self.mac("another-secret", &message));
        let value = match &self.format {
            Some(format) => {
                format.replace("{v}", &own).replace("{other}", &other).replace("{t}", &at)
            }
            None => format!("{}{own}", self.prefix),
        };
        let mut headers = vec![(self.header.clone(), value)];
        headers.extend(self.timestamp_header.iter().map(|name| (name.clone(), at.clone())));
        headers
    }

    fn message(&self, body: &[u8], at: &str) -> Vec<u8> {
        let (before, after) = self.signed.split_once("{body}").expect("the body is signed");
        let text = |part: &str| part.replace("{timestamp}", at).into_bytes();
        [text(before), body.to_vec(), text(after)].concat()
    }

    fn mac(&self, secret: &str, message: &[u8]) -> String {
        let mac = match self.hash.as_deref() {
            Some("sha1") => {
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("a key");
                mac.update(message);
                mac.finalize().into_bytes().to_vec()
            }
            Some("sha256") | None => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
                mac.update(message);
                mac.finalize().into_bytes().to_vec()
            }
            Some(hash) => panic!("unknown hash {hash}"),
        };
        match self.encoding.as_str() {
            "hex" => hex::encode(mac),
            "base64" => STANDARD.encode(mac),
            "base64url-unpadded" => URL_SAFE_NO_PAD.encode(mac),
            encoding => panic!("unknown encoding {encoding}"),
        }
    }
}
