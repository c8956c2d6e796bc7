//! Queries the health of a process on this host, for `ingress health` and `worker health`.
//!
//! Containers without a shell or curl use it as their health check.
//!
//! # Guarantees
//!
//! - The result is healthy only if the operational server at `OPS_BIND` responds with 200
//!   (`health_is_good_for_200_only_and_shows_the_first_line`).
//! - A query ends within seconds, also if the process does not respond.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::variables::Variable;
use crate::config::{Env, Problem};

/// Timeout of the connection, and of each read and write.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest part of a response that is read. The routes queried here send one line.
const MAX_RESPONSE_BYTES: u64 = 4096;

/// Queries `/ready` or `/live` at `ops_bind`.
///
/// Returns true if the status is 200, and the first line of the body.
///
/// # Errors
/// `OPS_BIND` is not an address.
pub fn query_health(
    env: &Env,
    ops_bind: &Variable,
    ready: bool,
) -> Result<(bool, String), Vec<Problem>> {
    let bind = env.socket_address(ops_bind);
    env.finish()?;
    let path = if ready { "/ready" } else { "/live" };
    Ok(match get(reachable(bind), path) {
        Ok(response) => parse_response(&response),
        Err(error) => (false, format!("{bind} does not answer: {error}")),
    })
}

/// Address at which this host reaches a server that is bound to `bind`.
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
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn parse_response(response: &str) -> (bool, String) {
    let healthy = response.starts_with("HTTP/1.1 200 ");
    let line = response
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body.lines().next().unwrap_or_default());
    (
        healthy,
        if line.is_empty() {
            "unexpected response; is OPS_BIND the address of this process?".to_owned()
        } else {
            line.to_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::TcpListener;

    use crate::config::variables::INGRESS_OPS_BIND;

    use super::*;

    /// Serves one request with `response`. The thread returns the request's first line.
    fn server(response: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned()
        });
        (address, thread)
    }

    fn query(bind: &str, ready: bool) -> (bool, String) {
        query_health(&Env::from_pairs([("OPS_BIND", bind)]), &INGRESS_OPS_BIND, ready).unwrap()
    }

    #[test]
    fn health_is_good_for_200_only_and_shows_the_first_line() {
        let (address, request) = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
        assert_eq!(query(&format!("0.0.0.0:{}", address.port()), true), (true, "ready".to_owned()));
        assert_eq!(request.join().unwrap(), "GET /ready HTTP/1.1");
        let (address, request) =
            server("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: Redis does not answer\n");
        assert_eq!(
            query(&address.to_string(), false),
            (false, "not ready: Redis does not answer".to_owned())
        );
        assert_eq!(request.join().unwrap(), "GET /live HTTP/1.1");
        let (address, _) = server("SSH-2.0-else\r\n");
        assert!(!query(&address.to_string(), true).0);
    }

    #[test]
    fn closed_port_is_unhealthy_and_a_bad_address_is_a_problem() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (healthy, line) = query(&free.to_string(), true);
        assert!(!healthy && line.contains("does not answer"), "{line}");
        let problems =
            query_health(&Env::from_pairs([("OPS_BIND", "here")]), &INGRESS_OPS_BIND, true)
                .unwrap_err();
        assert_eq!(problems[0].name, "OPS_BIND");
    }
}
