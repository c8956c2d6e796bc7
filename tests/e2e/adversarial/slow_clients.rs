//! Idle connections, and heads and bodies that arrive slowly.

use futures_util::future::join_all;

use super::*;

/// Number of idle connections, if the limit on open files of this process permits it.
const IDLE_CONNECTIONS: u64 = 20_000;
/// File descriptors that the other tests of this process need at the same time.
const RESERVED_FILES: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_by_the_thousand_block_no_sender() {
    let stack = Stack::builder().workers(0).start().await;
    let to = address(&stack);
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let crowd = IDLE_CONNECTIONS.min(files.saturating_sub(RESERVED_FILES));
    if crowd < IDLE_CONNECTIONS {
        eprintln!("only {crowd} connections: this process may have {files} files open");
    }
    let served = while_serving(&stack, async {
        let mut kept = Vec::new();
        for round in 0..crowd.div_ceil(250) {
            // The connections come from many addresses. Some of them have sent part of a head.
            let from = 2 + u8::try_from(round % 100).unwrap();
            let opened =
                join_all((0..250).map(|_| timeout(Duration::from_secs(10), connect(to, from))))
                    .await;
            for (at, stream) in opened.into_iter().enumerate() {
                // A refused connection is not counted among the open ones.
                let Ok(Ok(mut stream)) = stream else { continue };
                if at % 4 == 0 {
                    let _ = stream.write_all(b"POST /api/v1/webhooks/acme HTTP/1.1\r\nx: ").await;
                }
                kept.push(stream);
            }
        }
        eprintln!("{} of {crowd} connections were taken", kept.len());
        assert!(kept.len() as u64 > crowd / 2, "not ingress refused them");
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    assert!(served >= 3);
    check_memory(&stack, 512);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_bound_evicts_the_longest_idle_connection() {
    let stack = Stack::builder().workers(0).ingress_env("MAX_CONNECTIONS", "32").start().await;
    let to = address(&stack);
    let mut idle = Vec::new();
    for n in 0..200 {
        idle.push(connect(to, 2).await.unwrap());
        if n % 20 == 0 {
            stack.ingresses[0].sender().send(&event()).await.expect(202, "accepted");
        }
    }
    // A connection with a request in progress is not idle.
    let signed = event();
    let mut working = connect(to, 3).await.unwrap();
    let started = head(
        &signed,
        &format!("content-length: {}\r\nconnection: close\r\n\r\n", signed.body.len()),
    );
    working.write_all(started.as_bytes()).await.unwrap();
    // Ingress must have read the head before the other connections arrive.
    tests::poll::until("the request is in progress", ANSWER_LIMIT, async || {
        let seen = stack.ingresses[0].sender().send(&event()).await.status;
        if seen == 202 { Ok(()) } else { Err(seen) }
    })
    .await;
    for _ in 0..200 {
        idle.push(connect(to, 4).await.unwrap());
    }
    stack.ingresses[0].sender().send(&event()).await.expect(202, "accepted");
    working.write_all(&signed.body).await.unwrap();
    let mut answer = String::new();
    timeout(ANSWER_LIMIT, working.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(statuses(&answer), ["202"], "{answer}");
    let mut closed = 0;
    for stream in &mut idle {
        closed += usize::from(matches!(
            timeout(Duration::from_millis(1), stream.read(&mut [0])).await,
            Ok(Ok(0) | Err(_))
        ));
    }
    assert!(closed >= 400 - 32, "only {closed} were closed");
    stack.ingresses[0].process.wait_until_logged("MAX_CONNECTIONS was reached", ANSWER_LIMIT).await;
}

/// Sends `bytes` slowly and repeatedly until the peer closes the connection. Returns the time this
/// took.
async fn drip(mut stream: TcpStream, bytes: &[u8], pause: Duration) -> Duration {
    let started = Instant::now();
    let (mut read, mut write) = stream.split();
    let ended = async {
        let mut sink = Vec::new();
        let _ = read.read_to_end(&mut sink).await;
    };
    let dripping = async {
        for byte in bytes.iter().cycle() {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = dripping => {}
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dripping_heads_are_cut_off_even_after_a_good_request() {
    let stack = Stack::builder().workers(0).start().await;
    let to = address(&stack);
    let pause = Duration::from_millis(400);
    let first = join_all((0..300).map(|_| async {
        let mut stream = connect(to, 5).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        drip(stream, b"x: y\r\n", pause).await
    }));
    let second = join_all((0..100).map(|_| async {
        let mut stream = connect(to, 6).await.unwrap();
        stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        assert!(
            answer[..length].starts_with(b"HTTP/1.1 404"),
            "{}",
            answer[..length].escape_ascii()
        );
        stream.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        drip(stream, b"x: y\r\n", pause).await
    }));
    while_serving(&stack, async {
        let both = timeout(Duration::from_secs(60), async { tokio::join!(first, second) });
        let (first, second) = both.await.expect("every connection was cut off");
        let longest = |times: Vec<Duration>| times.into_iter().max().unwrap();
        let (first, second) = (longest(first), longest(second));
        eprintln!("first heads within {first:?}, later ones within {second:?}");
        assert!(first.max(second) < Duration::from_secs(20), "{first:?}, {second:?}");
    })
    .await;
    check_memory(&stack, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_received_while_ingress_was_frozen_are_not_late() {
    // With one thread, ingress accepts the connections in their order.
    let stack = Stack::builder().workers(0).ingress_env("INGRESS_WORKERS", "1").start().await;
    let mut early = Vec::new();
    for started in [PartialRequest::Nothing, PartialRequest::Head, PartialRequest::PartOfBody] {
        let signed = event();
        let mut stream = connect(address(&stack), 2).await.unwrap();
        let request = head(
            &signed,
            &format!("content-length: {}\r\nconnection: close\r\n\r\n", signed.body.len()),
        );
        let request = [request.as_bytes(), &signed.body].concat();
        let body_at = request.len() - signed.body.len();
        let before = match started {
            PartialRequest::Nothing => 0,
            PartialRequest::Head => body_at,
            PartialRequest::PartOfBody => body_at + 10,
        };
        stream.write_all(&request[..before]).await.unwrap();
        early.push((started, stream, request[before..].to_vec()));
    }
    for _ in 0..3 {
        stack.ingresses[0].sender().send(&event()).await.expect(202, "accepted");
    }
    stack.ingresses[0].process.freeze();
    for (_, stream, rest) in &mut early {
        stream.write_all(rest).await.unwrap();
    }
    // Longer than every timeout of a connection.
    tokio::time::sleep(Duration::from_secs(13)).await;
    stack.ingresses[0].process.thaw();
    for (started, mut stream, _) in early {
        let mut answer = String::new();
        let read = timeout(ANSWER_LIMIT, stream.read_to_string(&mut answer)).await;
        let log = stack.ingresses[0].process.tail();
        assert!(
            matches!(read, Ok(Ok(_))) && statuses(&answer) == ["202"],
            "{started:?}: {read:?} {answer}\n{log}"
        );
    }
}

/// Part of a request that arrives before ingress is frozen.
#[derive(Clone, Copy, Debug)]
enum PartialRequest {
    Nothing,
    Head,
    PartOfBody,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_cause_no_refusal_of_fast_requests() {
    let stack = Stack::builder()
        .workers(0)
        .ingress_env("MAX_BODY_BYTES", "16384")
        .ingress_env("MAX_IN_FLIGHT_BYTES", "65536")
        .ingress_env("BODY_TIMEOUT_MS", "6000")
        .start()
        .await;
    let to = address(&stack);
    // Ten times `MAX_IN_FLIGHT_BYTES`, from senders that ingress cannot verify yet.
    let slow = join_all((0..80).map(|n| async move {
        let signed = event();
        let mut stream = connect(to, 7).await.unwrap();
        let more = if n % 2 == 0 {
            "content-length: 16384\r\n\r\n"
        } else {
            "transfer-encoding: chunked\r\n\r\n2000\r\n"
        };
        stream.write_all(head(&signed, more).as_bytes()).await.unwrap();
        let _ = stream.write_all(&[b' '; 8000]).await;
        let (mut read, mut write) = stream.split();
        let mut answer = String::new();
        let dripping = async {
            while write.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            std::future::pending::<()>().await;
        };
        let answered = timeout(Duration::from_secs(20), async {
            tokio::select! {
                _ = read.read_to_string(&mut answer) => {}
                () = dripping => {}
            }
        });
        answered.await.expect("neither answered nor closed");
        statuses(&answer).first().map_or(String::new(), |status| (*status).to_owned())
    }));
    let served = while_serving(&stack, async {
        let statuses = slow.await;
        assert!(
            statuses.iter().all(|status| ["503", "408", ""].contains(&status.as_str())),
            "{statuses:?}"
        );
        assert!(statuses.iter().any(|status| status == "503"), "no body was evicted: {statuses:?}");
    })
    .await;
    assert_eq!(stack.unfinished("acme").await, served);
    check_memory(&stack, 100);
}
