//! Checks the bounds of bodies, and evictions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
use futures_util::stream;

use super::*;

fn payload(parts: &[&'static str]) -> Payload {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    Payload::Stream { payload: Box::pin(stream::iter(parts)) }
}

fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

fn body_reader(max: usize, in_flight: usize) -> BodyReader {
    BodyReader::new(max, Duration::from_secs(5), in_flight)
}

#[tokio::test]
async fn body_is_joined_from_its_parts() {
    let parts: &[(&[&str], &str)] =
        &[(&[], ""), (&["ab"], "ab"), (&["", "a", "b", "", "cd"], "abcd")];
    for (parts, whole) in parts {
        let body = body_reader(4, 100).read(&HeaderMap::new(), &mut payload(parts)).await.unwrap();
        assert_eq!(body.bytes, whole.as_bytes());
    }
}

#[tokio::test]
async fn body_too_large_is_refused_by_length_and_by_bytes() {
    let (body_reader, limit) = (body_reader(4, 100), 4);
    let announced = headers(&[(CONTENT_LENGTH, "5"), (CONTENT_ENCODING, "gzip")]);
    let refused = body_reader.read(&announced, &mut payload(&[])).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
    let refused = body_reader.read(&HeaderMap::new(), &mut payload(&["abc", "de"])).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
    assert!(
        body_reader.read(&headers(&[(CONTENT_LENGTH, "4")]), &mut payload(&["abcd"])).await.is_ok()
    );
}

#[tokio::test]
async fn content_encoding_is_returned_with_the_body() {
    let known = [
        ("", Ok(None)),
        ("Identity", Ok(None)),
        ("utf-8", Ok(None)),
        ("gzip", Ok(Some(ContentEncoding::Gzip))),
    ];
    for (value, coding) in known.into_iter().chain([
        ("br, zstd", Err(UnsupportedEncodingError)),
        ("compress", Err(UnsupportedEncodingError)),
    ]) {
        let read = body_reader(4, 100)
            .read(&headers(&[(CONTENT_ENCODING, value)]), &mut payload(&["a"]))
            .await;
        assert_eq!(read.unwrap().coding, coding, "{value}");
    }
}

fn zstd(body: &[u8]) -> Bytes {
    zstd::bulk::compress(body, 3).unwrap().into()
}

#[tokio::test]
async fn decode_is_bounded_inline_and_on_the_decoder_pool() {
    for max in
        [1000, MAX_INLINE_DECODE_BYTES, MAX_INLINE_DECODE_BYTES + 1, 4 * MAX_INLINE_DECODE_BYTES]
    {
        let body_reader = body_reader(max, 16 * max);
        for (length, fits) in [(max - 1, true), (max, true), (max + 1, false), (8 * max, false)] {
            let (body, mut held) = (vec![b' '; length], InFlightPermit::default());
            match body_reader.decode(ContentEncoding::Zstd, &zstd(&body), &mut held).await {
                Ok(decoded) => assert_eq!((decoded.unwrap(), fits), (body.into(), true)),
                Err(Error::PayloadTooLarge { limit }) => assert_eq!((limit, fits), (max, false)),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test]
async fn decoded_body_counts_with_its_decoded_size() {
    let body_reader = body_reader(500, 700);
    let wire = zstd(&[b' '; 400]);
    let mut held = InFlightPermit::default();
    body_reader.hold(&mut held.0, wire.len()).unwrap();
    body_reader.decode(ContentEncoding::Zstd, &wire, &mut held).await.unwrap();
    assert_eq!(body_reader.in_flight.available_permits(), 300);
    let mut second = InFlightPermit::default();
    assert!(matches!(
        body_reader.decode(ContentEncoding::Zstd, &wire, &mut second).await,
        Err(Error::Busy)
    ));
    drop((held, second));
    assert_eq!(body_reader.in_flight.available_permits(), 700);
}

#[tokio::test]
async fn malformed_encoding_decodes_to_none() {
    for coding in [ContentEncoding::Gzip, ContentEncoding::Zstd, ContentEncoding::Brotli] {
        let wire = Bytes::from_static(b"neither of them");
        assert_eq!(
            body_reader(100, 100)
                .decode(coding, &wire, &mut InFlightPermit::default())
                .await
                .unwrap(),
            None
        );
    }
}

#[tokio::test(start_paused = true)]
async fn body_that_stalls_times_out() {
    let begun = stream::iter([Ok(Bytes::from_static(b"a"))]);
    let mut stalled = Payload::Stream { payload: Box::pin(begun.chain(stream::pending())) as _ };
    let body_reader = body_reader(4, 100);
    assert!(matches!(
        body_reader.read(&HeaderMap::new(), &mut stalled).await,
        Err(Error::BodyTimeout)
    ));
    assert_eq!(
        body_reader.in_flight.available_permits(),
        100,
        "the bytes that arrived must be released"
    );
}

#[tokio::test]
async fn broken_body_is_an_error_of_its_own() {
    let broken = stream::iter([Err(PayloadError::Incomplete(None))]);
    let mut broken = Payload::Stream { payload: Box::pin(broken) as _ };
    assert!(matches!(
        body_reader(4, 100).read(&HeaderMap::new(), &mut broken).await,
        Err(Error::BodyBroken(_))
    ));
}

#[tokio::test]
async fn in_flight_bytes_are_counted_until_released() {
    let body_reader = body_reader(8, 10);
    let first = body_reader.read(&HeaderMap::new(), &mut payload(&["1234", "5678"])).await.unwrap();
    let second = body_reader.read(&HeaderMap::new(), &mut payload(&["12", "3"])).await;
    assert!(matches!(second, Err(Error::Busy)));
    assert_eq!(body_reader.in_flight.available_permits(), 2, "a refused body must hold nothing");
    drop(first.held);
    assert!(body_reader.read(&HeaderMap::new(), &mut payload(&["123"])).await.is_ok());
}

fn stalled(first: &'static [u8]) -> Payload {
    let begun = stream::iter([Ok(Bytes::from_static(first))]);
    Payload::Stream { payload: Box::pin(begun.chain(stream::pending())) as _ }
}

async fn read_stalled(
    body_reader: BodyReader,
    first: &'static [u8],
) -> Result<ReceivedBody, Error> {
    body_reader.read(&HeaderMap::new(), &mut stalled(first)).await
}

#[tokio::test(start_paused = true)]
async fn oldest_pending_body_is_evicted_first() {
    tokio::task::LocalSet::new().run_until(whoever()).await;
}

async fn whoever() {
    let body_reader = body_reader(8, 10);
    let oldest = tokio::task::spawn_local(read_stalled(body_reader.clone(), b"1234"));
    tokio::task::yield_now().await;
    let younger = tokio::task::spawn_local(read_stalled(body_reader.clone(), b"5678"));
    tokio::task::yield_now().await;
    assert_eq!(body_reader.in_flight.available_permits(), 2);
    let whole = body_reader.read(&HeaderMap::new(), &mut payload(&["abc", "de"])).await.unwrap();
    assert_eq!(whole.bytes, "abcde");
    assert!(matches!(oldest.await.unwrap(), Err(Error::Busy)), "the oldest body is evicted");
    assert!(!younger.is_finished(), "one eviction is enough");
    // A complete body is never evicted. A new one is refused if there is nothing to evict.
    let second = body_reader.read(&HeaderMap::new(), &mut payload(&["abcdef"])).await;
    assert!(matches!(second, Err(Error::Busy)), "even evicting all would not free enough");
    assert!(!younger.is_finished(), "so none is evicted");
    drop(whole);
    body_reader.read(&HeaderMap::new(), &mut payload(&["abcdef"])).await.unwrap();
    assert!(matches!(younger.await.unwrap(), Err(Error::BodyTimeout)));
    assert_eq!(body_reader.in_flight.available_permits(), 10);
}

#[tokio::test(start_paused = true)]
async fn slow_body_does_not_evict_a_younger_one() {
    tokio::task::LocalSet::new().run_until(slow()).await;
}

async fn slow() {
    let body_reader = body_reader(8, 8);
    let parts = stream::iter([Ok(Bytes::from_static(b"1"))]);
    let later = stream::once(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Bytes::from_static(b"23456"))
    });
    let mut slow = Payload::Stream { payload: Box::pin(parts.chain(later)) as _ };
    let older = tokio::task::spawn_local({
        let body_reader = body_reader.clone();
        async move { body_reader.read(&HeaderMap::new(), &mut slow).await }
    });
    tokio::task::yield_now().await;
    let younger = tokio::task::spawn_local(read_stalled(body_reader.clone(), b"abcd"));
    assert!(matches!(older.await.unwrap(), Err(Error::Busy)), "the older body is evicted");
    assert!(matches!(younger.await.unwrap(), Err(Error::BodyTimeout)));
    assert_eq!(body_reader.in_flight.available_permits(), 8);
}
