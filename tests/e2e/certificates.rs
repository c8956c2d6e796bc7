//! A host without CA certificates: https deliveries wait, everything else works.

use reqwest::Method;
use serde_json::Value;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::ports;
use tests::process;
use tests::sender::{content_event, now_ms};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

/// A CA certificate that no test server uses.
const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBjjCCATWgAwIBAgIUJdLYIntx9H2sL76+YTM+eNYOpc4wCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRVHJpYnV0YXJ5IHRlc3QgQ0EwIBcNMjYxMjAxMDcwMDA4WhgP
MjEyNjExMDcwNzAwMDhaMBwxGjAYBgNVBAMMEVRyaWJ1dGFyeSB0ZXN0IENBMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWr+nyDahNlLcX7dz2yuCWL9/ZyFsAmCT
Q+A37ONDWVvHjkppbp2m4AZsWev+U574fNvv2QdZkAgi1Fsuldpxf6NTMFEwHQYD
VR0OBBYEFPkO7+amBx9ixV/NS3dqkaufAudJMB8GA1UdIwQYMBaAFPkO7+amBx9i
xV/NS3dqkaufAudJMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIg
Od/As/Rp6CWfJZmFngc3pGGAp/o/z7fLadqmXTLvh8wCIBPRQh2feCSOBZfJULKm
7kwCgQ944IBlSt5wh/BE34/f
-----END CERTIFICATE-----
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_deliveries_wait_for_certificates() {
    let folder = process::folder();
    let file = folder.path().join("ca.pem");
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let closed_url = format!("https://127.0.0.1:{}/", ports::free());
    let stack = Stack::builder()
        .env("SSL_CERT_FILE", file.to_str().unwrap())
        .env("WEBHOOK_URLS", &format!("{},{closed_url}", receiver.url()))
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("WEBHOOK_MAX_RETRIES", "0")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
        .start()
        .await;
    stack
        .sender()
        .netflix(&content_event("content_added", "film", "A film", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("http goes on", WAIT_LIMIT, async || {
        if receiver.deliveries() == 1 { Ok(()) } else { Err("no delivery") }
    })
    .await;
    let last_error = async || {
        let answer = stack.sender().admin(Method::GET, "/api/webhooks/status", &Value::Null).await;
        answer.json["destinations"][1]["last_error"].as_str().unwrap_or_default().to_owned()
    };
    poll::until("the status shows the reason", WAIT_LIMIT, async || {
        let error = last_error().await;
        let named = error.contains("no CA certificates in SSL_CERT_FILE (no such path)");
        if named { Ok(()) } else { Err(error) }
    })
    .await;
    let waiting: usize = stack.redis.command(&["XLEN", "webhooks:outgoing:webhook_2"]).await;
    assert_eq!((waiting, stack.dead("out:webhook_2").await), (1, 0));
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.ready(WAIT_LIMIT).await;
        assert!(role.process.log().contains("no CA certificates"), "{}", role.process.tail());
    }
    let open = stack.workers[0]
        .metric("webhook_destination_circuit_open", &["destination=\"webhook_2\""])
        .await;
    assert!(open > 0.5, "a metric shows it");

    // The worker finds the certificates without a restart. The receiver's port is closed.
    std::fs::write(&file, CA).unwrap();
    poll::until("the delivery is attempted", WAIT_LIMIT * 3, async || {
        let error = last_error().await;
        if error.contains("ECONNREFUSED") { Ok(()) } else { Err(error) }
    })
    .await;
}

/// The read of the pipe blocks forever, like a read from a hanging mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_certificates_cannot_be_read_ends_the_process() {
    let folder = process::folder();
    let pipe = folder.path().join("ca.pem");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = Stack::builder()
        .env("SSL_CERT_FILE", pipe.to_str().unwrap())
        .env("WEBHOOK_URLS", &format!("{},https://127.0.0.1:{}/", receiver.url(), ports::free()))
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
        .start()
        .await;
    stack
        .sender()
        .netflix(&content_event("content_added", "film", "A film", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("http goes on", WAIT_LIMIT, async || {
        if receiver.deliveries() == 1 { Ok(()) } else { Err("no delivery") }
    })
    .await;
    assert_eq!(stack.dead("out:webhook_2").await, 0);
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.process.terminate();
        let status = role.process.wait_until_ended(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(0), "{}", role.process.tail());
        assert!(
            !role.process.log().contains("the grace period is over"),
            "{}",
            role.process.tail()
        );
    }
}
