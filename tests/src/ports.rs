//! Free loopback ports that stay free while a server restarts.
//!
//! They lie below the range from which the kernel picks ports of outgoing connections: a port out of that range can be
//! taken by any client (even by one that connects to itself) while the server that a test gave it to is down.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;

const PORT_RANGE: std::ops::Range<u16> = 10_000..32_000;

/// Ports that this process has given out; none is given out twice.
static ISSUED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback port that nothing listens on and that this process has not given out before.
#[must_use]
pub fn free() -> u16 {
    let mut given = ISSUED.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..1000 {
        let port = rand::rng().random_range(PORT_RANGE);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free loopback port in {PORT_RANGE:?}");
}
