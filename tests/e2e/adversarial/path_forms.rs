//! Odd requests to one platform through two forms of its path. The plain path goes directly to the
//! handler, the percent-encoded one through the router. Both must give the same answer.

use futures_util::future::join_all;

use super::*;

const PLAIN_PATH: &str = "/webhooks/acme";
const ESCAPED_PATH: &str = "/webhooks/%61cme";

/// Builds one or more requests to a path.
type RequestForPath = fn(&str) -> String;

/// Builds a request. `more` holds headers, each with its line end.
fn framed(method: &str, path: &str, version: &str, more: &str, body: &str) -> String {
    format!("{method} {path} HTTP/{version}\r\nhost: x\r\n{more}\r\n{body}")
}

/// Builds a request with a valid event and signature.
fn valid_request(method: &str, path: &str, version: &str, more: &str) -> String {
    let (signed, mut more) = (event(), more.to_owned());
    more.push_str(&format!("x-webhook-signature: {}\r\n", signed.value("x-webhook-signature")));
    let body = String::from_utf8(signed.body).unwrap();
    if more.contains("chunked") {
        let (first, second) = body.split_at(7);
        let chunks = format!("7\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
        return framed(method, path, version, &more, &chunks);
    }
    more.push_str(&format!("content-length: {}\r\n", body.len()));
    framed(method, path, version, &more, &body)
}

fn valid_post(path: &str) -> String {
    valid_request("POST", path, "1.1", "")
}

fn last_request(path: &str) -> String {
    valid_request("POST", path, "1.1", "connection: close\r\n")
}

fn oversized_request(path: &str) -> String {
    framed("POST", path, "1.1", "content-length: 20001\r\n", &"x".repeat(20_001))
}

/// Requests, and the expected statuses of their answers.
const CASES: [(RequestForPath, &[&str]); 38] = [
    (valid_post, &["202"]),
    (last_request, &["202"]),
    (|path| valid_request("POST", path, "1.0", ""), &["202"]),
    (|path| valid_request("POST", path, "1.0", "connection: keep-alive\r\n"), &["202"]),
    (|path| valid_post(&format!("{path}?platform=other&x=%20")), &["202"]),
    (|path| valid_post(&format!("http://elsewhere{path}")), &["202"]),
    (|path| valid_post(&format!("{path}/")), &["202"]),
    (|path| valid_post(&format!("/{path}")), &["202"]),
    (|path| valid_post(&format!("{path}/.")), &["404"]),
    (
        |path| valid_request("POST", path, "1.1", "connection: upgrade\r\nupgrade: h2c\r\n"),
        &["202"],
    ),
    (
        |path| valid_request("POST", path, "1.1", "connection: upgrade\r\nupgrade: websocket\r\n"),
        &["202"],
    ),
    (|path| valid_request("GET", path, "1.1", ""), &["405"]),
    (|path| valid_request("PUT", path, "1.1", ""), &["405"]),
    (|path| valid_request("PATCH", path, "1.1", ""), &["405"]),
    (|path| valid_request("DELETE", path, "1.1", ""), &["405"]),
    (|path| valid_request("post", path, "1.1", ""), &["405"]),
    (|path| framed("GET", path, "1.1", "", ""), &["405"]),
    (|path| framed("HEAD", path, "1.1", "", ""), &["200"]),
    (|path| framed("OPTIONS", path, "1.1", "origin: http://x\r\n", ""), &["204"]),
    (|path| framed("POST", path, "1.1", "", ""), &["401"]),
    (|path| valid_post(path).replace("sha256=", "sha256=0"), &["401"]),
    (|path| framed("POST", path, "1.1", "content-encoding: deflate\r\n", ""), &["415"]),
    (|path| valid_request("POST", path, "1.1", "x-webhook-signature: sha256=00\r\n"), &["202"]),
    (|path| valid_request("POST", path, "1.1", "expect: 100-continue\r\n"), &["100", "202"]),
    (|path| valid_request("POST", path, "1.1", "expect: something\r\n"), &["202"]),
    (|path| valid_request("POST", path, "1.1", "transfer-encoding: chunked\r\n"), &["202"]),
    (|path| valid_request("POST", path, "1.1", "transfer-encoding: gzip, chunked\r\n"), &["400"]),
    (
        |path| {
            valid_request(
                "POST",
                path,
                "1.1",
                "transfer-encoding: chunked\r\ncontent-length: 7\r\n",
            )
        },
        &["400"],
    ),
    (|path| framed("POST", path, "1.1", "transfer-encoding: chunked\r\n", "zz\r\n"), &["400"]),
    (oversized_request, &["413"]),
    (|path| framed("POST", path, "1.1", "content-length: 20001\r\n", ""), &["413"]),
    (|path| framed("POST", path, "1.1", "content-length: 20000\r\n", "{"), &["408"]),
    (|path| valid_post(path).replace("host: x\r\n", ""), &["400"]),
    (|path| valid_request("POST", path, "1.1", &"x: y\r\n".repeat(200)), &["431"]),
    (
        |path| {
            [valid_post(path), valid_post(path).replace("sha256=", "sha256=0"), valid_post(path)]
                .concat()
        },
        &["202", "401", "202"],
    ),
    // A second request after one with `connection: close`.
    (|path| [last_request(path), valid_post(path)].concat(), &["202", "503"]),
    (|path| [oversized_request(path), valid_post(path)].concat(), &["413", "503"]),
    (|path| [valid_request("PUT", path, "1.1", ""), valid_post(path)].concat(), &["405", "503"]),
];

/// The answers without the parts that differ between any two answers.
fn plain(received: &str) -> Vec<String> {
    let mut lines: Vec<String> = received.split("\r\n").map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with("date: "));
    for line in &mut lines {
        for name in ["erresid", "event_id"] {
            let begin = format!("\"{name}\":\"");
            if let Some((before, (_, after))) = line
                .split_once(&begin)
                .and_then(|(before, rest)| Some((before, rest.split_once('"')?)))
            {
                *line = format!("{before}{begin}\"{after}");
            }
        }
    }
    // The order of headers is irrelevant.
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_the_same_answer_for_either_path_form() {
    let builder = Stack::builder().workers(0).ingress_env("MAX_BODY_BYTES", "20000");
    let stack = builder.ingress_env("BODY_TIMEOUT_MS", "500").start().await;
    let to = address(&stack);
    let ask =
        async |request: String| exchange(to, request.as_bytes(), Duration::from_secs(5)).await;
    let both = CASES.iter().map(async |(request, statuses)| {
        let (plain_answer, escaped_answer) =
            tokio::join!(ask(request(PLAIN_PATH)), ask(request(ESCAPED_PATH)));
        (request(PLAIN_PATH), statuses, plain_answer, escaped_answer)
    });
    let mut accepted = 0;
    for (request, expected, (plain_answer, closed), (escaped_answer, escaped_closed)) in
        join_all(both).await
    {
        let statuses: Vec<&str> =
            plain_answer.split("HTTP/1.").skip(1).map(|answer| &answer[2..5]).collect();
        let request = &request[..request.len().min(300)];
        assert_eq!(statuses, **expected, "{request}\n{plain_answer}");
        assert_eq!(
            (plain(&plain_answer), closed),
            (plain(&escaped_answer), escaped_closed),
            "{request}"
        );
        accepted += 2 * expected.iter().filter(|status| **status == "202").count();
    }
    assert_eq!(stack.unfinished("acme").await, accepted);
    let counted = stack.ingresses[0]
        .metric("webhook_requests_total", &["platform=\"acme\"", "outcome=\"accepted\""]);
    assert!((counted.await - accepted as f64).abs() < 0.1);
}
