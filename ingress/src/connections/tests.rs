#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::net::TcpListener;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// The other side of a connection, and what ingress knows it by.
fn open(all: &Connections, listener: &TcpListener) -> (TcpStream, Served) {
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    (other, Served { entry: all.enter(&stream), _stream: stream })
}

/// The server's own handle lives as long as its entry.
struct Served {
    entry: Option<Entry>,
    _stream: tokio::net::TcpStream,
}

fn is_closed(other: &mut TcpStream) -> bool {
    matches!(other.read(&mut [0]), Ok(0))
}

fn busy(served: &Served) -> Busy {
    served.entry.as_ref().unwrap().busy()
}

#[tokio::test]
async fn the_longest_silent_one_goes_and_none_in_the_middle_of_a_request() {
    let (all, listener) = (Connections::new(2, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut first, data) = open(&all, &listener);
    let working = busy(&data);
    let (mut second, other) = open(&all, &listener);
    let (mut third, _third) = open(&all, &listener);
    assert!(!is_closed(&mut first), "it is in the middle of a request");
    assert!(is_closed(&mut second) && !is_closed(&mut third));
    drop(other);
    let also = busy(&_third);
    let (mut fourth, fourth_data) = open(&all, &listener);
    assert!(is_closed(&mut fourth) && fourth_data.entry.is_none(), "there was nobody to close for it");
    drop((working, also, data));
    assert_eq!(all.lock().len(), 1);
    let (mut fifth, _fifth) = open(&all, &listener);
    assert!(!is_closed(&mut fifth) && !is_closed(&mut third));
}

#[tokio::test]
async fn silence_has_an_end_and_begins_after_the_last_request() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let (mut working, data) = open(&all, &listener);
    let request = busy(&data);
    let look = async || {
        tokio::time::sleep(Duration::from_millis(360)).await;
        all.close_silent(Duration::from_millis(300));
    };
    look().await;
    assert!(!is_closed(&mut idle), "what came in may not have been read yet");
    look().await;
    assert!(is_closed(&mut idle) && !is_closed(&mut working));
    drop(request);
    all.close_silent(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "it has only just been answered");
    look().await;
    drop(busy(&data));
    all.close_silent(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "it has spoken since it was found silent");
    look().await;
    look().await;
    assert!(is_closed(&mut working));
}

#[tokio::test]
async fn silence_is_found_by_the_thread_that_would_have_read() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let look = || all.close_silent(Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| (look(), look()));
    });
    look();
    assert!(!is_closed(&mut idle), "what another thread sees says nothing");
    look();
    assert!(is_closed(&mut idle));
}

#[tokio::test]
async fn head_that_begins_and_does_not_end_is_closed() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let (mut begun, served) = open(&all, &listener);
    let (mut speaking, spoken) = open(&all, &listener);
    served.entry.as_ref().unwrap().hear();
    for _ in 0..HEAD_LOOKS {
        // A connection whose requests come to their ends may be met in the middle of a head any
        // number of times.
        spoken.entry.as_ref().unwrap().hear();
        all.close_silent(HOUR);
        drop(busy(&spoken));
    }
    assert!(!is_closed(&mut begun));
    spoken.entry.as_ref().unwrap().hear();
    all.close_silent(HOUR);
    assert!(is_closed(&mut begun));
    assert!(!is_closed(&mut idle) && !is_closed(&mut speaking));
}

#[test]
fn files_bound_connections() {
    assert_eq!(most_with(1 << 20, 10_000), 10_000);
    assert_eq!(most_with(1024, 10_000), 307);
    assert_eq!(most_with(64, 10_000), FEWEST);
    assert_eq!((per_thread(10_000, 2), per_thread(16, 4)), (5_633, 12));
}
