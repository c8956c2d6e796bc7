//! Uses the vendors' encoders where available. Brotli streams are written by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const ALL: [ContentEncoding; 3] =
    [ContentEncoding::Gzip, ContentEncoding::Zstd, ContentEncoding::Brotli];

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Returns a frame without its length, as a streaming encoder writes it, with a window of 8 MiB.
fn zstd_streamed(body: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotlied(body: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let parameters =
        brotli::enc::BrotliEncoderParams { lgwin: 24, quality: 5, ..Default::default() };
    brotli::BrotliCompress(&mut &*body, &mut encoded, &parameters).unwrap();
    encoded
}

fn encoded(coding: ContentEncoding, body: &[u8]) -> Vec<u8> {
    match coding {
        ContentEncoding::Gzip => gzipped(body),
        ContentEncoding::Zstd => zstd::bulk::compress(body, 3).unwrap(),
        ContentEncoding::Brotli => brotlied(body),
    }
}

fn named(values: &[&str]) -> Result<Option<ContentEncoding>, UnsupportedEncodingError> {
    ContentEncoding::named(values.iter().map(|value| value.as_bytes()))
}

#[test]
fn content_encoding_is_one_known_name_or_none() {
    for none in [&[][..], &[""], &["identity"], &[" Identity , "], &["", "identity"]] {
        assert_eq!(named(none), Ok(None), "{none:?}");
    }
    for none in [
        "UTF-8",
        "utf8",
        "none",
        "8bit",
        "7bit",
        "binary",
        "US-ASCII",
        "utf-8, identity",
        "8BIT,none",
    ] {
        assert_eq!(named(&[none]), Ok(None), "{none}");
    }
    assert_eq!(named(&["utf-8, gzip"]), Ok(Some(ContentEncoding::Gzip)));
    assert_eq!(named(&["gzip", "none"]), Ok(Some(ContentEncoding::Gzip)));
    for (value, coding) in [
        ("gzip", ContentEncoding::Gzip),
        (" GZip ", ContentEncoding::Gzip),
        ("x-gzip", ContentEncoding::Gzip),
        ("zstd", ContentEncoding::Zstd),
        ("br", ContentEncoding::Brotli),
    ] {
        assert_eq!(named(&[value]), Ok(Some(coding)), "{value}");
    }
    for several in [
        &["gzip, gzip"][..],
        &["gzip", "br"],
        &["zstd, br, gzip"],
        &["deflate"],
        &["brotli"],
        &["*"],
    ] {
        assert_eq!(named(several), Err(UnsupportedEncodingError), "{several:?}");
    }
}

#[test]
fn decode_bound_is_exact() {
    for coding in ALL {
        let body: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
        let wire = encoded(coding, &body);
        assert_eq!(coding.decode(&wire, body.len()), Ok(body.clone()), "{coding:?}");
        assert_eq!(coding.decode(&wire, body.len() + 1), Ok(body.clone()), "{coding:?}");
        for max in [0, 1, 1000, body.len() - 1] {
            assert_eq!(
                coding.decode(&wire, max),
                Err(ContentDecodeError::TooLarge),
                "{coding:?} {max}"
            );
        }
    }
}

#[test]
fn decompression_bomb_is_refused_within_the_bound() {
    let huge = vec![0; 64 << 20];
    for (coding, bomb) in [
        (ContentEncoding::Gzip, gzipped(&huge)),
        (ContentEncoding::Zstd, encoded(ContentEncoding::Zstd, &huge)),
        (ContentEncoding::Zstd, zstd_streamed(&huge)),
        (ContentEncoding::Brotli, brotlied(&huge)),
    ] {
        assert!(bomb.len() < 128 * 1024, "{coding:?}: {}", bomb.len());
        assert_eq!(coding.decode(&bomb, 100_000), Err(ContentDecodeError::TooLarge), "{coding:?}");
    }
}

/// A Brotli decoder allocates the announced size of a block before it decodes the block.
#[test]
fn frame_that_announces_too_much_is_too_large() {
    let body: Vec<u8> =
        (0..75_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let wire = brotlied(&body);
    let begun = &wire[..wire.len() / 6];
    assert_eq!(
        ContentEncoding::Brotli.decode(begun, 2 * body.len()),
        Err(ContentDecodeError::Malformed),
        "cut short, but not too large"
    );
    assert_eq!(ContentEncoding::Brotli.decode(begun, 100_000), Err(ContentDecodeError::TooLarge));
}

#[test]
fn truncated_or_trailing_bytes_are_malformed() {
    let body = br#"{"event":"stream.live","data":{"title":"a title, a title, a title"}}"#;
    for coding in ALL {
        let wire = encoded(coding, body);
        for end in 1..wire.len() {
            assert_eq!(
                coding.decode(&wire[..end], 1000),
                Err(ContentDecodeError::Malformed),
                "{coding:?} {end}"
            );
        }
        let longer = [&wire[..], b"garbage"].concat();
        assert_eq!(coding.decode(&longer, 1000), Err(ContentDecodeError::Malformed), "{coding:?}");
        for other in ALL.into_iter().filter(|other| *other != coding) {
            assert!(other.decode(&wire, 1000).is_err_and(|_| true), "{coding:?} as {other:?}");
        }
    }
}

#[test]
fn stream_without_length_and_concatenated_frames_decode() {
    assert_eq!(ContentEncoding::Zstd.decode(&zstd_streamed(b"abc"), 10), Ok(b"abc".to_vec()));
    for coding in [ContentEncoding::Gzip, ContentEncoding::Zstd] {
        let two = [encoded(coding, b"abc"), encoded(coding, b"def")].concat();
        assert_eq!(coding.decode(&two, 6), Ok(b"abcdef".to_vec()), "{coding:?}");
        assert_eq!(coding.decode(&two, 5), Err(ContentDecodeError::TooLarge), "{coding:?}");
    }
}

/// Body of few different bytes, which compresses well, or of any bytes.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3000),
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'"')], 0..30_000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn decode_inverts_encode_or_is_too_large(body in body(), max in 0_usize..40_000) {
        for coding in ALL {
            let fits = body.len() <= max;
            let expected = if fits { Ok(body.clone()) } else { Err(ContentDecodeError::TooLarge) };
            prop_assert_eq!(coding.decode(&encoded(coding, &body), max), expected, "{:?}", coding);
        }
    }

    #[test]
    fn decode_of_arbitrary_bytes_never_panics(
        body in body(),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..5),
        max in 0_usize..5000,
    ) {
        for coding in ALL {
            let mut wire = encoded(coding, &body);
            for (at, bits) in &flips {
                let at = at.index(wire.len());
                wire[at] ^= bits;
            }
            for wire in [&noise, &wire] {
                if let Ok(decoded) = coding.decode(wire, max) {
                    prop_assert!(decoded.len() <= max);
                    prop_assert!(decoded.capacity() <= max.max(64), "excess capacity is released");
                }
            }
        }
    }
}
