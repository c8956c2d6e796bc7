#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::net::TcpListener;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Peer of a connection, with ingress's registration of it.
fn open(connections: &Connections, listener: &TcpListener) -> (TcpStream, ServedConnection) {
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    (other, ServedConnection { guard: connections.register(&stream), _stream: stream })
}

/// Registration together with the server's own handle of the connection.
struct ServedConnection {
    guard: Option<ConnectionGuard>,
    _stream: tokio::net::TcpStream,
}

fn is_closed(other: &mut TcpStream) -> bool {
    matches!(other.read(&mut [0]), Ok(0))
}

fn busy(served: &ServedConnection) -> RequestGuard {
    served.guard.as_ref().unwrap().busy()
}

#[tokio::test]
async fn longest_idle_connection_is_evicted_not_a_busy_one() {
    let (connections, listener) =
        (Connections::new(2, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut first, data) = open(&connections, &listener);
    let working = busy(&data);
    let (mut second, other) = open(&connections, &listener);
    let (mut third, _third) = open(&connections, &listener);
    assert!(!is_closed(&mut first), "a request is in progress");
    assert!(is_closed(&mut second) && !is_closed(&mut third));
    drop(other);
    let also = busy(&_third);
    let (mut fourth, fourth_data) = open(&connections, &listener);
    assert!(is_closed(&mut fourth) && fourth_data.guard.is_none(), "no connection is idle");
    drop((working, also, data));
    assert_eq!(connections.lock().len(), 1);
    let (mut fifth, _fifth) = open(&connections, &listener);
    assert!(!is_closed(&mut fifth) && !is_closed(&mut third));
}

#[tokio::test]
async fn idle_time_is_bounded_and_starts_after_the_last_request() {
    let (connections, listener) =
        (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&connections, &listener);
    let (mut working, data) = open(&connections, &listener);
    let request = busy(&data);
    let look = async || {
        tokio::time::sleep(Duration::from_millis(360)).await;
        connections.close_idle(Duration::from_millis(300));
    };
    look().await;
    assert!(!is_closed(&mut idle), "pending bytes may be unread");
    look().await;
    assert!(is_closed(&mut idle) && !is_closed(&mut working));
    drop(request);
    connections.close_idle(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "the request just ended");
    look().await;
    drop(busy(&data));
    connections.close_idle(Duration::from_millis(300));
    assert!(!is_closed(&mut working), "it had a request since the last sweep");
    look().await;
    look().await;
    assert!(is_closed(&mut working));
}

#[tokio::test]
async fn idle_connection_is_closed_by_its_own_thread() {
    let (connections, listener) =
        (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&connections, &listener);
    let look = || connections.close_idle(Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| (look(), look()));
    });
    look();
    assert!(!is_closed(&mut idle), "sweeps of another thread do not count");
    look();
    assert!(is_closed(&mut idle));
}

#[tokio::test]
async fn connection_with_an_unfinished_head_is_closed() {
    let (connections, listener) =
        (Connections::new(9, HOUR), TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut idle, _idle) = open(&connections, &listener);
    let (mut begun, served) = open(&connections, &listener);
    let (mut speaking, spoken) = open(&connections, &listener);
    served.guard.as_ref().unwrap().note_bytes();
    for _ in 0..MAX_HEAD_SWEEPS {
        // A connection with finished requests may be found in the middle of a head any number of
        // times.
        spoken.guard.as_ref().unwrap().note_bytes();
        connections.close_idle(HOUR);
        drop(busy(&spoken));
    }
    assert!(!is_closed(&mut begun));
    spoken.guard.as_ref().unwrap().note_bytes();
    connections.close_idle(HOUR);
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
