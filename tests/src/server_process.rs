//! A process of the system with its addresses: its health, its metrics.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::poll;
use crate::process::Process;
use crate::sender::{Sender, http};

/// A process with a health address.
#[derive(Debug)]
pub struct ServerProcess {
    /// The process.
    pub process: Process,
    /// `http://127.0.0.1:PORT` of webhooks; of `OPS_BIND` for a worker.
    pub url: String,
    /// `http://127.0.0.1:PORT` of `OPS_BIND`.
    pub ops: String,
}

impl ServerProcess {
    /// A client of this ingress.
    #[must_use]
    pub fn sender(&self) -> Sender {
        Sender::new(&self.url)
    }

    /// Waits until `/ready` says 200.
    ///
    /// # Panics
    /// With the process's log, when it does not.
    pub async fn ready(&self, within: Duration) {
        self.health("/ready", 200, within).await;
    }

    /// Waits until its address takes connections, ready or not.
    ///
    /// # Panics
    /// With the process's log, when it does not.
    pub async fn listening(&self, within: Duration) {
        poll::until(&format!("{} takes connections", self.url), within, async || {
            let connected = TcpStream::connect(self.url.trim_start_matches("http://")).await;
            connected.map(drop).map_err(|error| format!("{error}; log:\n{}", self.process.tail()))
        })
        .await;
    }

    /// Waits until `path` at the ops address answers with `status`.
    ///
    /// # Panics
    /// With the process's log, when it does not.
    pub async fn health(&self, path: &str, status: u16, within: Duration) {
        poll::until(&format!("{path} says {status}"), within, async || {
            if !self.process.is_running() {
                return Err(format!("the process ended; log:\n{}", self.process.tail()));
            }
            match self.probe(path).await {
                Some(seen) if seen == status => Ok(()),
                seen => Err(format!("{seen:?}; log:\n{}", self.process.tail())),
            }
        })
        .await;
    }

    /// The status of `path` at the ops address, if it answers.
    pub async fn probe(&self, path: &str) -> Option<u16> {
        let request = http(Duration::from_secs(3)).get(format!("{}{path}", self.ops));
        request.send().await.ok().map(|answer| answer.status().as_u16())
    }

    /// The value of a metric whose line begins with `name` and holds every one of `labels` (`platform="mux"`); the sum of
    /// all such lines, 0 when there is none.
    ///
    /// # Panics
    /// When `/metrics` does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = Sender::new(&self.ops).get("/metrics").await.text;
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
