//! Bounds of bodies, and who yields at them.

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

fn bodies(max: usize, in_flight: usize) -> Bodies {
    Bodies::new(max, Duration::from_secs(5), in_flight)
}

#[tokio::test]
async fn parts_make_one_body() {
    let parts: &[(&[&str], &str)] = &[(&[], ""), (&["ab"], "ab"), (&["", "a", "b", "", "cd"], "abcd")];
    for (parts, whole) in parts {
        let body = bodies(4, 100).read(&HeaderMap::new(), &mut payload(parts)).await.unwrap();
        assert_eq!(body.bytes, whole.as_bytes());
    }
}

#[tokio::test]
async fn too_much_is_refused_by_announcement_and_by_fact() {
    let (bodies, limit) = (bodies(4, 100), 4);
    let announced = headers(&[(CONTENT_LENGTH, "5"), (CONTENT_ENCODING, "gzip")]);
    let refused = bodies.read(&announced, &mut payload(&[])).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
    let refused = bodies.read(&HeaderMap::new(), &mut payload(&["abc", "de"])).await;
    assert!(matches!(refused, Err(Error::PayloadTooLarge { limit: at }) if at == limit));
    assert!(bodies.read(&headers(&[(CONTENT_LENGTH, "4")]), &mut payload(&["abcd"])).await.is_ok());
}

#[tokio::test]
async fn coding_of_a_body_is_kept_beside_it() {
    let known = [("", Ok(None)), ("Identity", Ok(None)), ("utf-8", Ok(None)), ("gzip", Ok(Some(Coding::Gzip)))];
    for (value, coding) in known.into_iter().chain([("br, zstd", Err(Unsupported)), ("compress", Err(Unsupported))])
    {
        let read = bodies(4, 100).read(&headers(&[(CONTENT_ENCODING, value)]), &mut payload(&["a"])).await;
        assert_eq!(read.unwrap().coding, coding, "{value}");
    }
}

fn zstd(body: &[u8]) -> Bytes {
    zstd::bulk::compress(body, 3).unwrap().into()
}

#[tokio::test]
async fn a_body_is_decoded_within_its_bound_on_either_side_of_what_is_done_at_once() {
    for max in [1000, DECODED_AT_ONCE, DECODED_AT_ONCE + 1, 4 * DECODED_AT_ONCE] {
        let bodies = bodies(max, 16 * max);
        for (length, fits) in [(max - 1, true), (max, true), (max + 1, false), (8 * max, false)] {
            let (body, mut held) = (vec![b' '; length], Held::default());
            match bodies.decode(Coding::Zstd, &zstd(&body), &mut held).await {
                Ok(decoded) => assert_eq!((decoded.unwrap(), fits), (body.into(), true)),
                Err(Error::PayloadTooLarge { limit }) => assert_eq!((limit, fits), (max, false)),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test]
async fn a_decoded_body_counts_as_what_it_has_become() {
    let bodies = bodies(500, 700);
    let wire = zstd(&[b' '; 400]);
    let mut held = Held::default();
    bodies.hold(&mut held.0, wire.len()).unwrap();
    bodies.decode(Coding::Zstd, &wire, &mut held).await.unwrap();
    assert_eq!(bodies.in_flight.available_permits(), 300);
    let mut second = Held::default();
    assert!(matches!(bodies.decode(Coding::Zstd, &wire, &mut second).await, Err(Error::Busy)));
    drop((held, second));
    assert_eq!(bodies.in_flight.available_permits(), 700);
}

#[tokio::test]
async fn what_is_malformed_is_no_body() {
    for coding in [Coding::Gzip, Coding::Zstd, Coding::Brotli] {
        let wire = Bytes::from_static(b"neither of them");
        assert_eq!(bodies(100, 100).decode(coding, &wire, &mut Held::default()).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up() {
    let begun = stream::iter([Ok(Bytes::from_static(b"a"))]);
    let mut stalled = Payload::Stream { payload: Box::pin(begun.chain(stream::pending())) as _ };
    let bodies = bodies(4, 100);
    assert!(matches!(bodies.read(&HeaderMap::new(), &mut stalled).await, Err(Error::BodyTimeout)));
    assert_eq!(bodies.in_flight.available_permits(), 100, "what had arrived must be given back");
}

#[tokio::test]
async fn a_broken_body_is_named_so() {
    let broken = stream::iter([Err(PayloadError::Incomplete(None))]);
    let mut broken = Payload::Stream { payload: Box::pin(broken) as _ };
    assert!(matches!(bodies(4, 100).read(&HeaderMap::new(), &mut broken).await, Err(Error::BodyBroken(_))));
}

#[tokio::test]
async fn bytes_are_counted_while_they_are_held() {
    let bodies = bodies(8, 10);
    let first = bodies.read(&HeaderMap::new(), &mut payload(&["1234", "5678"])).await.unwrap();
    let second = bodies.read(&HeaderMap::new(), &mut payload(&["12", "3"])).await;
    assert!(matches!(second, Err(Error::Busy)));
    assert_eq!(bodies.in_flight.available_permits(), 2, "a refused body must hold nothing");
    drop(first.held);
    assert!(bodies.read(&HeaderMap::new(), &mut payload(&["123"])).await.is_ok());
}

fn stalled(first: &'static [u8]) -> Payload {
    let begun = stream::iter([Ok(Bytes::from_static(first))]);
    Payload::Stream { payload: Box::pin(begun.chain(stream::pending())) as _ }
}

async fn read_stalled(bodies: Bodies, first: &'static [u8]) -> Result<Body, Error> {
    bodies.read(&HeaderMap::new(), &mut stalled(first)).await
}

#[tokio::test(start_paused = true)]
async fn whoever_was_waited_for_longest_yields_to_who_comes_whole() {
    tokio::task::LocalSet::new().run_until(whoever()).await;
}

async fn whoever() {
    let bodies = bodies(8, 10);
    let oldest = tokio::task::spawn_local(read_stalled(bodies.clone(), b"1234"));
    tokio::task::yield_now().await;
    let younger = tokio::task::spawn_local(read_stalled(bodies.clone(), b"5678"));
    tokio::task::yield_now().await;
    assert_eq!(bodies.in_flight.available_permits(), 2);
    let whole = bodies.read(&HeaderMap::new(), &mut payload(&["abc", "de"])).await.unwrap();
    assert_eq!(whole.bytes, "abcde");
    assert!(matches!(oldest.await.unwrap(), Err(Error::Busy)), "the oldest had to go");
    assert!(!younger.is_finished(), "one was enough");
    // Nobody who is complete has to go; who comes when there is nobody else is refused.
    let second = bodies.read(&HeaderMap::new(), &mut payload(&["abcdef"])).await;
    assert!(matches!(second, Err(Error::Busy)), "not even if all yielded there would be room");
    assert!(!younger.is_finished(), "so nobody had to");
    drop(whole);
    bodies.read(&HeaderMap::new(), &mut payload(&["abcdef"])).await.unwrap();
    assert!(matches!(younger.await.unwrap(), Err(Error::BodyTimeout)));
    assert_eq!(bodies.in_flight.available_permits(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_does_not_push_out_a_younger_one() {
    tokio::task::LocalSet::new().run_until(slow()).await;
}

async fn slow() {
    let bodies = bodies(8, 8);
    let parts = stream::iter([Ok(Bytes::from_static(b"1"))]);
    let later = stream::once(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Bytes::from_static(b"23456"))
    });
    let mut slow = Payload::Stream { payload: Box::pin(parts.chain(later)) as _ };
    let older = tokio::task::spawn_local({
        let bodies = bodies.clone();
        async move { bodies.read(&HeaderMap::new(), &mut slow).await }
    });
    tokio::task::yield_now().await;
    let younger = tokio::task::spawn_local(read_stalled(bodies.clone(), b"abcd"));
    assert!(matches!(older.await.unwrap(), Err(Error::Busy)), "it is the older one that has to go");
    assert!(matches!(younger.await.unwrap(), Err(Error::BodyTimeout)));
    assert_eq!(bodies.in_flight.available_permits(), 8);
}
