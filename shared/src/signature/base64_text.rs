//! Decodes base64 in either alphabet, with or without padding.
//!
//! # Guarantees
//!
//! - Both alphabets are accepted, with or without padding (`base64_in_either_alphabet_is_decoded`).
//! - Each text has only one meaning: mixed alphabets, unused bits and blanks are refused
//!   (`ambiguous_base64_is_refused`).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

const DECODE_CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, DECODE_CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, DECODE_CONFIG);

/// Decodes `text`. Returns `None` if it is not base64.
pub(crate) fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let text = text.as_ref();
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// Removes the prefix `v1,` that some services put before a Standard Webhooks secret, and any
/// blanks after the comma.
pub(crate) fn without_version(secret: &str) -> &str {
    secret.strip_prefix("v1,").map_or(secret, str::trim_start)
}

/// Decodes the text of a secret. Some tools wrap long secrets, so line breaks and white space
/// around them are ignored.
pub(crate) fn decode_secret(text: &str) -> Option<Vec<u8>> {
    if !text.contains('\n') {
        return decode(text);
    }
    let whole: Zeroizing<String> = Zeroizing::new(text.lines().map(str::trim).collect());
    decode(whole.as_bytes())
}

/// Decodes `text` into `bytes` and returns the number of bytes. `bytes` must have room for
/// `text.len() / 4 * 3 + 3`.
pub(crate) fn decode_slice(text: &[u8], bytes: &mut [u8]) -> Option<usize> {
    STANDARD.decode_slice(text, bytes).or_else(|_| URL_SAFE.decode_slice(text, bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_either_alphabet_is_decoded() {
        let bytes = [0xfb, 0xef, 0xff, 0x01];
        for text in ["++//AQ==", "++//AQ", "--__AQ==", "--__AQ"] {
            assert_eq!(decode(text), Some(bytes.to_vec()), "{text}");
        }
    }

    #[test]
    fn base64_of_a_wrapped_secret_is_decoded() {
        for text in ["++//\nAQ==", "++//\r\nAQ==\r\n", "++//\n  AQ"] {
            assert_eq!(decode_secret(text), Some(vec![0xfb, 0xef, 0xff, 0x01]), "{text:?}");
            assert_eq!(decode(text), None, "{text:?}");
        }
        for text in ["+-//\nAQ", "++// AQ", "++// AQ\n"] {
            assert_eq!(decode_secret(text), None, "{text:?}");
        }
    }

    #[test]
    fn ambiguous_base64_is_refused() {
        for text in ["+-//AQ", "++//AR", "++//A", "++//A Q", "++//AQ===", "++/=/AQ", "="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
