//! Free loopback ports that stay free while a server restarts.
//!
//! They are below the kernel's range of ports for outgoing connections. A port of that range can be
//! taken by any client, or by a connection to itself, while its server is down.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;

const PORT_RANGE: std::ops::Range<u16> = 10_000..32_000;

/// Ports issued by this process; none is issued twice.
static ISSUED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Returns a loopback port that is free and was not issued before.
///
/// # Panics
/// If no port is found in 1000 attempts.
#[must_use]
pub fn free() -> u16 {
    let mut issued = ISSUED.lock().unwrap_or_else(PoisonError::into_inner);
    let issued = issued.get_or_insert_default();
    for _ in 0..1000 {
        let port = rand::rng().random_range(PORT_RANGE);
        if !issued.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            issued.insert(port);
            return port;
        }
    }
    panic!("no free loopback port in {PORT_RANGE:?}");
}
