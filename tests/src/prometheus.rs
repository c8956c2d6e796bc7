//! Real Prometheus that scrapes a stack and evaluates the shipped alert rules at a higher speed.
//!
//! # Guarantees
//!
//! - The rules are those of `deploy/prometheus/alerts.yml`. Only their durations (`for`, windows,
//!   ages) are divided, so that an alert of five minutes takes seconds
//!   (`speed_up_rules_divides_only_durations`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{self, Process, Program};
use crate::server_process::ServerProcess;
use crate::stack::Stack;
use crate::{poll, ports};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// File from which Prometheus reads its targets.
const TARGETS_FILE: &str = "targets.json";

/// A running Prometheus. On drop it is killed and its folder removed.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    url: String,
    folder: tempfile::TempDir,
}

/// Returns a file of this repository.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn repository_file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Prometheus {
    /// Starts a Prometheus that scrapes all processes of `stack` and evaluates the shipped rules
    /// `factor` times as fast.
    ///
    /// # Panics
    /// If Prometheus is not installed or does not become ready.
    pub async fn start(stack: &Stack, factor: u32) -> Self {
        let folder = process::folder();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a file")
        };
        write(
            "alerts.yml",
            &speed_up_rules(&repository_file("deploy/prometheus/alerts.yml"), factor),
        );
        write("prometheus.yml", CONFIG);
        let _ = write_targets(folder.path(), stack);
        let address = format!("127.0.0.1:{}", ports::free());
        let process = Program::at("prometheus", "prometheus")
            .in_folder(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--query.lookback-delta={}ms", 300_000 / factor))
            .spawn();
        let prometheus = Self { process, url: format!("http://{address}"), folder };
        poll::until("prometheus is ready", START_TIMEOUT, async || {
            let answer = reqwest::get(format!("{}/-/ready", prometheus.url)).await;
            match answer.map(|answer| answer.status().is_success()) {
                Ok(true) => Ok(()),
                other => Err(format!("{other:?}; log:\n{}", prometheus.process.tail())),
            }
        })
        .await;
        prometheus.follow(stack).await;
        prometheus
    }

    /// Scrapes the processes of `stack` that run now, and waits until each was scraped once. Later
    /// increments are visible.
    ///
    /// # Panics
    /// If a process does not answer.
    pub async fn follow(&self, stack: &Stack) {
        let mut wanted = write_targets(self.folder.path(), stack);
        wanted.sort();
        poll::until("every process is scraped", START_TIMEOUT, async || {
            let up = self.query("up == 1").await?;
            let mut up: Vec<&str> =
                up.iter().filter_map(|one| one["metric"]["instance"].as_str()).collect();
            up.sort_unstable();
            if up == wanted { Ok(()) } else { Err(format!("{up:?} instead of {wanted:?}")) }
        })
        .await;
    }

    /// Returns the result of an instant query.
    ///
    /// # Errors
    /// The error that Prometheus returns.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let answer = self.get("query", &[("query", expression)]).await?;
        Ok(answer["result"].as_array().cloned().unwrap_or_else(|| vec![answer["result"].clone()]))
    }

    /// Queries the HTTP API.
    ///
    /// # Errors
    /// If there is no answer, or if its status is `error`.
    pub async fn get(&self, route: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url =
            reqwest::Url::parse_with_params(&format!("{}/api/v1/{route}", self.url), parameters);
        let answer = reqwest::get(url.map_err(|error| error.to_string())?)
            .await
            .map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if json["status"] == "success" { Ok(json["data"].clone()) } else { Err(text) }
    }

    /// Returns the firing alerts as `Name`, or as `Name:platform` if they have a label `platform`.
    ///
    /// # Panics
    /// If Prometheus does not answer.
    pub async fn firing(&self) -> BTreeSet<String> {
        let alerts = self.get("alerts", &[]).await.expect("prometheus answers");
        let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
        let firing =
            alerts.iter().filter(|alert| alert["state"] == "firing").map(|alert| &alert["labels"]);
        let text = |labels: &Value, name: &str| labels[name].as_str().map(str::to_owned);
        firing
            .map(|labels| {
                let name = text(labels, "alertname").unwrap_or_default();
                text(labels, "platform")
                    .map_or(name.clone(), |platform| format!("{name}:{platform}"))
            })
            .collect()
    }

    /// Waits until all of these alerts fire.
    ///
    /// # Panics
    /// If they do not fire within `within`.
    pub async fn wait_until_firing(&self, alerts: &[&str], within: Duration) {
        poll::until(&format!("{alerts:?} fire"), within, async || {
            let firing = self.firing().await;
            if alerts.iter().all(|alert| firing.contains(*alert)) {
                Ok(())
            } else {
                Err(format!("{firing:?}"))
            }
        })
        .await;
    }

    /// Waits until no alert fires.
    ///
    /// # Panics
    /// If an alert still fires after `within`.
    pub async fn wait_until_quiet(&self, within: Duration) {
        poll::until("no alert fires", within, async || {
            let firing = self.firing().await;
            if firing.is_empty() { Ok(()) } else { Err(format!("{firing:?}")) }
        })
        .await;
    }
}

const CONFIG: &str = "\
global: { scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: any
    file_sd_configs: [{ files: [targets.json] }]
";

/// Writes the addresses of all running processes for Prometheus, and returns them.
fn write_targets(folder: &Path, stack: &Stack) -> Vec<String> {
    let addresses = |roles: &[ServerProcess]| -> Vec<String> {
        let running = roles.iter().filter(|role| role.process.is_running());
        running.map(|role| role.ops.trim_start_matches("http://").to_owned()).collect()
    };
    let (ingresses, workers) = (addresses(&stack.ingresses), addresses(&stack.workers));
    let targets = json!([
        {"targets": ingresses, "labels": {"job": "tributary-ingress"}},
        {"targets": workers, "labels": {"job": "tributary-worker"}},
    ]);
    // Replaced atomically, since Prometheus reads the file on every change.
    let (new, file) = (folder.join("targets.new"), folder.join(TARGETS_FILE));
    std::fs::write(&new, targets.to_string())
        .and_then(|()| std::fs::rename(&new, &file))
        .expect("a file of targets");
    [ingresses, workers].concat()
}

/// Divides every duration of `rules` by `factor`: `for: 5m`, `[15m]`, and the seconds that an age
/// is compared with.
///
/// # Panics
/// If there is nothing to divide, or if a `for` is not a duration.
#[must_use]
pub fn speed_up_rules(rules: &str, factor: u32) -> String {
    let mut text = String::new();
    let mut divided = 0;
    for line in rules.lines() {
        let mut line = line.to_owned();
        if let Some(after) = line.trim_start().strip_prefix("for: ") {
            let slow = millis(after.trim()).unwrap_or_else(|| panic!("no duration: {line}"));
            line = line.replace(after, &format!("{}ms", slow / factor));
            divided += 1;
        }
        for mark in ["[", "_age_seconds) > "] {
            let mut done = 0;
            while let Some(at) = line[done..].find(mark).map(|at| done + at + mark.len()) {
                let rest = &line[at..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                let (slow, window) = (rest[..end].to_owned(), mark == "[");
                let new = if window {
                    millis(&slow).map(|slow| format!("{}ms", slow / factor))
                } else {
                    slow.parse::<u32>()
                        .ok()
                        .map(|slow| (f64::from(slow) / f64::from(factor)).to_string())
                };
                if let Some(new) = new {
                    line.replace_range(at..at + end, &new);
                    divided += 1;
                }
                done = at;
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    assert!(divided > 30, "only {divided} durations were found");
    text
}

/// Parses a duration of Prometheus, a number and a unit, into ms.
fn millis(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[digits..] {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    text[..digits].parse::<u32>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_up_rules_divides_only_durations() {
        let rules = repository_file("deploy/prometheus/alerts.yml");
        let fast = speed_up_rules(&rules, 60);
        assert_eq!(fast.lines().count(), rules.lines().count());
        for (before, after) in [
            (
                "max by (platform) (webhook_oldest_age_seconds) > 300",
                "max by (platform) (webhook_oldest_age_seconds) > 5",
            ),
            (
                "{outcome=\"dead_lettered\"}[15m])) > 0",
                "{outcome=\"dead_lettered\"}[15000ms])) > 0",
            ),
            ("for: 5m", "for: 5000ms"),
            ("webhook_retrying) > 1000", "webhook_retrying) > 1000"),
        ] {
            assert!(rules.contains(before) && fast.contains(after), "{before} -> {after}:\n{fast}");
        }
        assert!(!fast.contains("m]") || fast.contains("ms]"), "{fast}");
    }
}
