//! An ingress or worker with its addresses, health and metrics.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::poll;
use crate::process::Process;
use crate::sender::{Sender, http};

/// A process with an ops address.
#[derive(Debug)]
pub struct ServerProcess {
    /// Handle of the process.
    pub process: Process,
    /// `http://127.0.0.1:PORT` of an ingress; the ops address of a worker.
    pub url: String,
    /// `http://127.0.0.1:PORT` of `OPS_BIND`.
    pub ops: String,
}

impl ServerProcess {
    /// Returns a client of this ingress.
    #[must_use]
    pub fn sender(&self) -> Sender {
        Sender::new(&self.url)
    }

    /// Waits until `/ready` returns 200.
    ///
    /// # Panics
    /// With the process's log, if it does not in time.
    pub async fn ready(&self, within: Duration) {
        self.health("/ready", 200, within).await;
    }

    /// Waits until the process accepts connections, ready or not.
    ///
    /// # Panics
    /// With the process's log, if it does not in time.
    pub async fn listening(&self, within: Duration) {
        poll::until(&format!("{} takes connections", self.url), within, async || {
            let connected = TcpStream::connect(self.url.trim_start_matches("http://")).await;
            connected.map(drop).map_err(|error| format!("{error}; log:\n{}", self.process.tail()))
        })
        .await;
    }

    /// Waits until `path` at the ops address returns `status`.
    ///
    /// # Panics
    /// With the process's log, if it does not in time.
    pub async fn health(&self, path: &str, status: u16, within: Duration) {
        poll::until(&format!("{path} returns {status}"), within, async || {
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

    /// Returns the status of `path` at the ops address, or `None` without an answer.
    pub async fn probe(&self, path: &str) -> Option<u16> {
        let request = http(Duration::from_secs(3)).get(format!("{}{path}", self.ops));
        request.send().await.ok().map(|answer| answer.status().as_u16())
    }

    /// Returns the sum of the samples of metric `name` that have all `labels` (`platform="mux"`),
    /// or 0.
    ///
    /// # Panics
    /// If `/metrics` does not answer.
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
