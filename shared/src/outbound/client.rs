//! Sends requests to destinations.
//!
//! # Guarantees
//!
//! - A request goes only to an address that its destination may have. The client resolves names,
//!   checks the addresses and connects to a checked one, so later changes of the name have no
//!   effect (`private_addresses_are_blocked_by_number_and_by_name`).
//! - Redirects are not followed (`redirect_is_not_followed`). Proxies are not used, and
//!   certificates are always verified.
//! - Every attempt ends in time (`silent_receiver_times_out`).
//! - A bounded part of a response is read.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use url::{Host, Url};

use super::address::AllowPrivate;
use super::certificates::{CertificatesError, HttpClients};
use super::delivery::{AttemptOutcome, TransportError};
use super::failure::classify_error;
use super::pause::RequestedPause;
use super::redirect::Redirect;
use super::resolver::{AddressFilter, BlockedAddressError, NameLookup, SystemLookup};
use crate::visible::is_visible;

/// Timeout of a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most headers of a response. hyper's own limit is 100.
const MAX_HEADERS: usize = 1024;
/// Longest body that is read, so that the connection can be reused.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
const MAX_EXCERPT_CHARS: usize = 500;
/// Time after which an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_IDLE_CONNECTIONS: usize = 32;

/// A client for all destinations that allow the same addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OutboundClient {
    http: Arc<HttpClients>,
    allowed: Arc<AllowPrivate>,
}

/// Error: the client cannot be set up. Missing certificates are no error, see
/// [`OutboundClient::https`].
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the client for outbound requests")]
pub struct ClientSetupError(#[source] reqwest::Error);

impl OutboundClient {
    /// Creates a client that reaches public addresses and those in `allowed`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(allowed: Arc<AllowPrivate>) -> Result<Self, ClientSetupError> {
        Self::with_names(allowed, Arc::new(SystemLookup))
    }

    fn with_names(
        allowed: Arc<AllowPrivate>,
        names: Arc<dyn NameLookup>,
    ) -> Result<Self, ClientSetupError> {
        let reachable = Arc::clone(&allowed);
        let http = HttpClients::new(move || {
            let (allowed, names) = (Arc::clone(&reachable), Arc::clone(&names));
            reqwest::Client::builder()
                .dns_resolver(Arc::new(AddressFilter { allowed, names }))
                .redirect(Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
                .tcp_nodelay(true)
                .http1_max_headers(MAX_HEADERS)
        });
        Ok(Self { http: Arc::new(http.map_err(ClientSetupError)?), allowed })
    }

    /// Checks that CA certificates are available if `url` needs them.
    ///
    /// # Errors
    /// This host has no CA certificates.
    pub fn https(&self, url: &Url) -> Result<(), CertificatesError> {
        self.http.get(url.scheme() == "https").map(drop)
    }

    /// Waits for CA certificates, for at most `timeout`. Without them, only `http://` URLs work.
    pub async fn wait_for_certificates(&self, timeout: Duration) {
        self.http.wait_for_search(timeout).await;
    }

    /// Searches for CA certificates again, if there are none and a search is due.
    pub fn search_certificates_if_due(&self) {
        self.http.search();
    }

    /// Sends one POST request within `timeout`. Returns its outcome and duration.
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> (AttemptOutcome, Duration) {
        let started = Instant::now();
        let attempt = self.attempt(url, headers, body, timeout, started).await;
        (attempt, started.elapsed())
    }

    /// Returns true if the host of `url` is an address that is not allowed. The resolver does not
    /// see such hosts.
    fn blocks(&self, url: &Url) -> bool {
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        literal.is_some_and(|address| !self.allowed.permits(address))
    }

    async fn attempt(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
        started: Instant,
    ) -> AttemptOutcome {
        if self.blocks(url) {
            return AttemptOutcome::Failed {
                kind: TransportError::Blocked,
                reason: BlockedAddressError.to_string(),
            };
        }
        let http = match self.http.get(url.scheme() == "https") {
            Ok(http) => http,
            Err(error) => {
                return AttemptOutcome::Failed {
                    kind: TransportError::Certificate,
                    reason: format!("ECERT {error}"),
                };
            }
        };
        let request = http.post(url.clone()).headers(headers).body(body).timeout(timeout);
        match request.send().await {
            Ok(mut response) => {
                let status = response.status().as_u16();
                let left = timeout.saturating_sub(started.elapsed());
                // The status decides, even if the body is cut off. The body of a success is not
                // needed.
                let most = if response.status().is_success() {
                    MAX_EXCERPT_CHARS * 4
                } else {
                    MAX_RESPONSE_BYTES
                };
                let reading = read_prefix(&mut response, most);
                let body = tokio::time::timeout(left, reading).await.unwrap_or_default();
                let pause = RequestedPause::read(url, response.headers(), &body, SystemTime::now());
                let redirect = Redirect::read(status, response.headers(), url);
                AttemptOutcome::Answered { status, pause, redirect, excerpt: excerpt(&body) }
            }
            Err(error) => classify_error(&error, url, timeout),
        }
    }
}

/// Reads the body up to its limit. Returns at most its first `most` bytes.
async fn read_prefix(response: &mut reqwest::Response, most: usize) -> Vec<u8> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = most.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if read > MAX_RESPONSE_BYTES {
            break;
        }
    }
    kept
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_EXCERPT_CHARS * 4).unwrap_or(body));
    let text: String =
        text.chars().take(MAX_EXCERPT_CHARS).map(|c| if is_visible(c) { c } else { ' ' }).collect();
    text.trim().to_owned()
}

/// Error: a header cannot be sent. Holds the name, but not the value.
#[derive(Debug, thiserror::Error)]
#[error("the header {0} cannot be sent")]
pub struct HeaderError(String);

/// Converts headers for the client, and marks their values as sensitive.
///
/// # Errors
/// A name or value is invalid.
pub fn header_map<'h>(
    pairs: impl IntoIterator<Item = (&'h str, &'h str)>,
) -> Result<HeaderMap, HeaderError> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let invalid = |_: &dyn fmt::Display| HeaderError(name.to_owned());
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(&error))?;
        let mut value = HeaderValue::from_str(value).map_err(|error| invalid(&error))?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;

    use futures_util::future::BoxFuture;
    use reqwest::dns::Resolve;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use std::io;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_millis(300);

    /// Creates a client with its own names: `A-and-B.test` has the addresses A and B, and no other
    /// name exists. So no test queries a name server.
    fn client(allowed: &str) -> OutboundClient {
        OutboundClient::with_names(Arc::new(allowed.parse().unwrap()), Arc::new(TestLookup))
            .unwrap()
    }

    struct TestLookup;

    impl NameLookup for TestLookup {
        fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let addresses = name.strip_suffix(".test").map(|names| names.replace('_', ":"));
            Box::pin(async move {
                let addresses = addresses.ok_or_else(|| io::Error::other("no such name"))?;
                Ok(addresses
                    .split("-and-")
                    .map(|one| SocketAddr::new(one.parse().unwrap(), 0))
                    .collect())
            })
        }
    }

    /// Starts a server that sends `response` on each connection after the head of a request.
    async fn server(response: &'static str) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(response.as_bytes()).await;
                    // An open connection keeps an incomplete response incomplete.
                    let _ = stream.read(&mut head).await;
                });
            }
        });
        url
    }

    async fn post(client: &OutboundClient, url: &Url, timeout: Duration) -> AttemptOutcome {
        client.post(url, HeaderMap::new(), Bytes::from_static(b"{}"), timeout).await.0
    }

    #[tokio::test]
    async fn response_is_returned_with_an_excerpt() {
        let url =
            server("HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\nsorry\x07\r\nx")
                .await;
        let attempt = post(&client("127.0.0.1"), &url, Duration::from_secs(5)).await;
        let expected = AttemptOutcome::Answered {
            status: 503,
            pause: RequestedPause::of(Some(Duration::from_secs(7))),
            redirect: None,
            excerpt: "sorry   x".to_owned(),
        };
        assert_eq!(attempt, expected);
    }

    #[test]
    fn excerpt_has_no_character_that_turns_text_around() {
        assert_eq!(excerpt("a\u{202e}b\u{200f}c\u{e0041}\u{1b}[2Jé".as_bytes()), "a b c  [2Jé");
    }

    #[tokio::test]
    async fn connection_closed_without_an_answer_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
        });
        let attempt = post(&client("127.0.0.1"), &url, Duration::from_secs(5)).await;
        let reason = "ECONNRESET the connection was closed without an answer".to_owned();
        assert_eq!(attempt, AttemptOutcome::Failed { kind: TransportError::Refused, reason });
    }

    #[tokio::test]
    async fn response_without_its_body_counts_by_its_status() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await;
        let attempt = post(&client("127.0.0.1"), &url, TEST_TIMEOUT).await;
        assert!(matches!(attempt, AttemptOutcome::Answered { status: 200, .. }), "{attempt:?}");
    }

    #[tokio::test]
    async fn silent_receiver_times_out() {
        let url = server("").await;
        let attempt = post(&client("127.0.0.1"), &url, TEST_TIMEOUT).await;
        let reason = "timeout of 300ms exceeded".to_owned();
        assert_eq!(attempt, AttemptOutcome::Failed { kind: TransportError::TimedOut, reason });
    }

    #[tokio::test]
    async fn answer_with_many_headers_counts_by_its_status() {
        let mut response = "HTTP/1.1 200 OK\r\n".to_owned();
        (0..500).for_each(|number| response.push_str(&format!("X-Header-{number}: value\r\n")));
        response.push_str("Content-Length: 0\r\n\r\n");
        let attempt =
            post(&client("127.0.0.1"), &server(response.leak()).await, TEST_TIMEOUT).await;
        assert!(matches!(attempt, AttemptOutcome::Answered { status: 200, .. }), "{attempt:?}");
    }

    async fn reason(response: &'static str) -> String {
        match post(&client("127.0.0.1"), &server(response).await, Duration::from_secs(5)).await {
            AttemptOutcome::Failed { kind, reason } => format!("{} {reason}", kind.code()),
            AttemptOutcome::Answered { status, .. } => status.to_string(),
        }
    }

    #[tokio::test]
    async fn answer_that_is_no_http_is_named_so() {
        // The preface of an HTTP/2 server: an empty SETTINGS frame.
        for response in ["\0\0\0\x04\0\0\0\0\0", "SSH-2.0-OpenSSH_9.2\r\n", "220 mail ESMTP\r\n"] {
            let reason = reason(response).await;
            assert_eq!(
                reason,
                "EPROTO EPROTO the answer is not HTTP/1.1 (an HTTP/2-only receiver?)"
            );
        }
        let reason = reason("HTTP/1.1 200 OK\r\nno header\r\n\r\n").await;
        assert!(reason.starts_with("EPROTO EPROTO the answer cannot be read: "), "{reason}");
    }

    #[tokio::test]
    async fn connect_timeout_differs_from_the_attempt_timeout() {
        let mut url = server("").await;
        url.set_scheme("https").unwrap();
        let client = client("127.0.0.1");
        client.http.wait_for_search(Duration::from_secs(20)).await;
        // The server accepts the connection, but starts no TLS session.
        let (slow, short) = tokio::join!(
            post(&client, &url, Duration::from_secs(60)),
            post(&client, &url, TEST_TIMEOUT),
        );
        let timed_out = |reason: &str| AttemptOutcome::Failed {
            kind: TransportError::TimedOut,
            reason: reason.to_owned(),
        };
        assert_eq!(slow, timed_out("connect timeout of 5000ms exceeded"));
        assert_eq!(short, timed_out("timeout of 300ms exceeded"));
    }

    #[tokio::test]
    async fn redirect_is_not_followed() {
        let url =
            server("HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
                .await;
        let attempt = post(&client("127.0.0.1"), &url, TEST_TIMEOUT).await;
        assert!(matches!(attempt, AttemptOutcome::Answered { status: 307, .. }), "{attempt:?}");
    }

    #[tokio::test]
    async fn https_waits_for_certificates_and_http_does_not() {
        let allowed = Arc::new("127.0.0.1".parse().unwrap());
        let client =
            OutboundClient { http: Arc::new(HttpClients::without_certificates()), allowed };
        let mut url = server("HTTP/1.1 204 No\r\n\r\n").await;
        assert!(client.https(&url).is_ok());
        let attempt = post(&client, &url, Duration::from_secs(5)).await;
        assert!(matches!(attempt, AttemptOutcome::Answered { status: 204, .. }), "{attempt:?}");
        url.set_scheme("https").unwrap();
        assert!(client.https(&url).is_err());
        let attempt = post(&client, &url, Duration::from_secs(5)).await;
        assert!(
            matches!(attempt, AttemptOutcome::Failed { kind: TransportError::Certificate, .. }),
            "{attempt:?}"
        );
    }

    #[tokio::test]
    async fn closed_port_is_refused() {
        let url = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap()
        };
        let attempt = post(&client("127.0.0.1"), &url, TEST_TIMEOUT).await;
        assert_eq!(
            attempt,
            AttemptOutcome::Failed {
                kind: TransportError::Refused,
                reason: "ECONNREFUSED".to_owned()
            }
        );
    }

    #[tokio::test]
    async fn private_addresses_are_blocked_by_number_and_by_name() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let port = url.port().unwrap();
        for host in
            ["127.0.0.1", "127.0.0.1.test", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"]
        {
            let url = format!("http://{host}:{port}/").parse().unwrap();
            let attempt = post(&client("false"), &url, TEST_TIMEOUT).await;
            assert!(
                matches!(attempt, AttemptOutcome::Failed { kind: TransportError::Blocked, .. }),
                "{host}: {attempt:?}"
            );
        }
        let named = format!("http://10.0.0.1-and-127.0.0.1.test:{port}/").parse().unwrap();
        let attempt = post(&client("127.0.0.0/8"), &named, TEST_TIMEOUT).await;
        assert!(matches!(attempt, AttemptOutcome::Answered { status: 200, .. }), "{attempt:?}");
    }

    /// Checks the decision alone, so that a bug cannot send requests to these addresses.
    #[tokio::test]
    async fn cloud_services_are_blocked_under_true() {
        let allowed: Arc<AllowPrivate> = Arc::new("true".parse().unwrap());
        let client =
            OutboundClient::with_names(Arc::clone(&allowed), Arc::new(TestLookup)).unwrap();
        for host in [
            "169.254.169.254",
            "2852039166",
            "[fd00:ec2::254]",
            "[::ffff:168.63.129.16]",
            "[64:ff9b::169.254.169.254]",
        ] {
            let url = format!("http://{host}/latest/meta-data").parse().unwrap();
            assert!(client.blocks(&url), "{host}");
        }
        assert!(!client.blocks(&"http://127.0.0.1/".parse().unwrap()));
        let resolver = AddressFilter { allowed, names: Arc::new(TestLookup) };
        for (name, good) in [
            ("169.254.169.254.test", None),
            ("100.100.100.200-and-168.63.129.16.test", None),
            ("fd20_ce__254.test", None),
            ("169.254.169.254-and-127.0.0.1.test", Some("127.0.0.1:0")),
        ] {
            let found = resolver.resolve(name.parse().unwrap()).await;
            let found = found.map(|all| all.map(|one| one.to_string()).collect::<Vec<_>>());
            match (found, good) {
                (Ok(found), Some(good)) => assert_eq!(found, [good], "{name}"),
                (Err(error), None) => assert!(error.is::<BlockedAddressError>(), "{name}: {error}"),
                (found, _) => unreachable!("{name}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn name_without_address_is_not_found() {
        let url = "http://absent.invalid/".parse().unwrap();
        let attempt = post(&client("false"), &url, Duration::from_secs(5)).await;
        let reason = "getaddrinfo ENOTFOUND absent.invalid".to_owned();
        assert_eq!(attempt, AttemptOutcome::Failed { kind: TransportError::NotFound, reason });
    }

    #[tokio::test]
    async fn https_to_a_plain_text_port_is_a_certificate_error() {
        let mut url = server("HTTP/1.1 200 OK\r\n\r\n").await;
        url.set_scheme("https").unwrap();
        let attempt = post(&client("127.0.0.1"), &url, Duration::from_secs(5)).await;
        assert!(
            matches!(attempt, AttemptOutcome::Failed { kind: TransportError::Certificate, .. }),
            "{attempt:?}"
        );
    }

    #[test]
    fn header_that_cannot_be_sent_is_named_without_its_value() {
        let error = header_map([("X-A", "s3cret\n")]).unwrap_err().to_string();
        assert_eq!(error, "the header X-A cannot be sent");
        assert!(!format!("{:?}", header_map([("X-A", "s3cret")]).unwrap()).contains("s3cret"));
    }
}
