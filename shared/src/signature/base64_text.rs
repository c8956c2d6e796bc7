//! Base64 as senders and people write it: either alphabet, with or without padding.
//!
//! Each text stands for one value only: characters of both alphabets in one text, bits that belong
//! to no byte, and blanks are refused.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const READING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, READING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, READING);

/// The bytes that `text` stands for.
pub(crate) fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let text = text.as_ref();
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// Decodes `text` into `bytes` and returns how many there are. `bytes` needs room for
/// `text.len() / 4 * 3 + 3`.
pub(crate) fn decode_slice(text: &[u8], bytes: &mut [u8]) -> Option<usize> {
    STANDARD.decode_slice(text, bytes).or_else(|_| URL_SAFE.decode_slice(text, bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_spelling_is_read() {
        let bytes = [0xfb, 0xef, 0xff, 0x01];
        for text in ["++//AQ==", "++//AQ", "--__AQ==", "--__AQ"] {
            assert_eq!(decode(text), Some(bytes.to_vec()), "{text}");
        }
    }

    #[test]
    fn base64_with_a_second_meaning_is_refused() {
        for text in ["+-//AQ", "++//AR", "++//A", "++//A Q", "++//AQ===", "++/=/AQ", "="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
