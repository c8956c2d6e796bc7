//! Applies events to rows of `jobs`.
//!
//! # Guarantees
//! - The status and each column have a version guard of their own (`job_keeps_newer_values`).

use shared::event::OrderKey;

use super::JobField;
use super::guards::VersionGuards;

/// Row of `jobs`. The batch has its platform.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct JobRow {
    pub job_id: String,
    pub status: String,
    pub progress: Option<f64>,
    pub current_step: Option<String>,
    pub video_url: Option<String>,
    pub error: Option<String>,
    pub retry_count: Option<i64>,
    /// JSON that replaces the stored one. `None` keeps it.
    pub data: Option<String>,
    pub guards: VersionGuards,
}

impl JobRow {
    /// Creates a job without any values.
    pub(super) fn new(job_id: &str) -> Self {
        Self { job_id: job_id.to_owned(), ..Self::default() }
    }

    /// Applies a `job` effect. Returns true if the event changed anything.
    pub(super) fn apply(&mut self, status: &str, set: &[JobField], key: OrderKey) -> bool {
        let mut won = self.guards.advance("status", key);
        if won {
            status.clone_into(&mut self.status);
        }
        for field in set {
            won |= self.set(field, key);
        }
        won
    }

    fn set(&mut self, field: &JobField, key: OrderKey) -> bool {
        if !self.guards.advance(field.column().as_str(), key) {
            return false;
        }
        match field.clone() {
            JobField::Progress(progress) => self.progress = progress,
            JobField::CurrentStep(step) => self.current_step = step,
            JobField::VideoUrl(url) => self.video_url = url,
            JobField::Error(error) => self.error = error,
            JobField::RetryCount(count) => self.retry_count = count,
            JobField::Data(data) => self.data = Some(data),
        }
        true
    }
}
