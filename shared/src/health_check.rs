//! Asking a process on this host how it is: `ingress health` and `worker health`, for containers without a shell or curl.
//!
//! Guarantee: it says good only when the operational server at `OPS_BIND` answered 200, and answers within seconds.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::{Env, Problem};

/// Longest wait for a connection, and for each piece of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// As much of an answer as is read; the operational routes asked here say one line.
const MAX_RESPONSE_BYTES: u64 = 4096;

/// Asks `/ready` (or `/live`) at `OPS_BIND`, else at `default`. Whether it answered 200, and what it said, as one line.
///
/// # Errors
/// When `OPS_BIND` is no address.
pub fn query_health(
    env: &Env,
    default: SocketAddr,
    ready: bool,
) -> Result<(bool, String), Vec<Problem>> {
    let bind = env.parse("OPS_BIND", default);
    env.finish()?;
    let path = if ready { "/ready" } else { "/live" };
    Ok(match get(reachable(bind), path) {
        Ok(answer) => verdict(&answer),
        Err(error) => (false, format!("{bind} does not answer: {error}")),
    })
}

/// Where a server bound to `bind` is reached from this host.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn verdict(answer: &str) -> (bool, String) {
    let good = answer.starts_with("HTTP/1.1 200 ");
    let said = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body.lines().next().unwrap_or_default());
    (
        good,
        if said.is_empty() {
            "no such answer is expected here".to_owned()
        } else {
            said.to_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`; gives its address and, once it is over, the request's first line.
    fn server(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned()
        });
        (address, thread)
    }

    fn asked(bind: &str, ready: bool) -> (bool, String) {
        query_health(&Env::from_pairs([("OPS_BIND", bind)]), "127.0.0.1:1".parse().unwrap(), ready)
            .unwrap()
    }

    #[test]
    fn health_is_good_for_200_only_and_shows_the_first_line() {
        let (address, request) = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
        assert_eq!(asked(&format!("0.0.0.0:{}", address.port()), true), (true, "ready".to_owned()));
        assert_eq!(request.join().unwrap(), "GET /ready HTTP/1.1");
        let (address, request) =
            server("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: Redis does not answer\n");
        assert_eq!(
            asked(&address.to_string(), false),
            (false, "not ready: Redis does not answer".to_owned())
        );
        assert_eq!(request.join().unwrap(), "GET /live HTTP/1.1");
        let (address, _) = server("SSH-2.0-else\r\n");
        assert!(!asked(&address.to_string(), true).0);
    }

    #[test]
    fn closed_port_is_unhealthy_and_a_bad_address_is_a_problem() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (good, said) = asked(&free.to_string(), true);
        assert!(!good && said.contains("does not answer"), "{said}");
        let problems =
            query_health(&Env::from_pairs([("OPS_BIND", "here")]), free, true).unwrap_err();
        assert_eq!(problems[0].name, "OPS_BIND");
    }
}
