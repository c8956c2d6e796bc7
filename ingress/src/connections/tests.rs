#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::net::TcpListener;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// The other side of a connection, and what ingress knows it by.
fn open(all: &Connections, listener: &TcpListener) -> (TcpStream, ServedConnection) {
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    (other, ServedConnection { entry: all.register(&stream), _stream: stream })
}

/// The server's own handle lives as long as its entry.
struct ServedConnection {
    entry: Option<ConnectionGuard>,
    _stream: tokio::net::TcpStream,
}

fn is_closed(other: &mut TcpStream) -> bool {
    matches!(other.read(&mut [0]), Ok(0))
}

fn busy(served: &ServedConnection) -> RequestGuard {
    served.entry.as_ref().unwrap().busy()
}

#[tokio::test]
async fn longest_idle_connection_is_evicted_not_a_busy_one() {
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
    assert!(
        is_closed(&mut fourth) && fourth_data.entry.is_none(),
        "there was nobody to close for it"
    );
    drop((working, also, data));
    assert_eq!(all.lock().len(), 1);
    let (mut fifth, _fifth) = open(&all, &listener);
    assert!(!is_closed(&mut fifth) && !is_closed(&mut third));
}

#[tokio::test]
async fn idle_time_is_bounded_and_starts_after_the_last_request() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let (mut working, data) = open(&all, &listener);
    let request = busy(&data);
    let look = async || {
        tokio::time::sleep(Duration::from_millis(360)).await;
        all.close_idle(Duration::from_millis(300));
    };
    look().await;
    assert!(!is_closed(&mut idle), "what came in may not have been read yet");
    look().await;
    assert!(is_closed(&mut idle) && !is_closed(&mut working));
    drop(request);
    all.close_idle(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "it has only just been answered");
    look().await;
    drop(busy(&data));
    all.close_idle(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "it has spoken since it was found silent");
    look().await;
    look().await;
    assert!(is_closed(&mut working));
}

#[tokio::test]
async fn idle_connection_is_closed_by_its_own_thread() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let look = || all.close_idle(Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| (look(), look()));
    });
    look();
    assert!(!is_closed(&mut idle), "what another thread sees says nothing");
    look();
    assert!(is_closed(&mut idle));
}

#[tokio::test]
async fn connection_with_an_unfinished_head_is_closed() {
    let (all, listener) = (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&all, &listener);
    let (mut begun, served) = open(&all, &listener);
    let (mut speaking, spoken) = open(&all, &listener);
    served.entry.as_ref().unwrap().note_bytes();
    for _ in 0..MAX_HEAD_SWEEPS {
        // A connection whose requests come to their ends may be met in the middle of a head any
        // number of times.
        spoken.entry.as_ref().unwrap().note_bytes();
        all.close_idle(HOUR);
        drop(busy(&spoken));
    }
    assert!(!is_closed(&mut begun));
    spoken.entry.as_ref().unwrap().note_bytes();
    all.close_idle(HOUR);
    assert!(is_closed(&mut begun));
    assert!(!is_closed(&mut idle) && !is_closed(&mut speaking));
}

#[test]
fn open_file_limit_bounds_connections() {
    assert_eq!(max_with_files(1 << 20, 10_000), 10_000);
    assert_eq!(max_with_files(1024, 10_000), 307);
    assert_eq!(max_with_files(64, 10_000), MIN_CONNECTIONS);
    assert_eq!((per_thread(10_000, 2), per_thread(16, 4)), (5_633, 12));
}
