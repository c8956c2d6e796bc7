//! Reads `[destinations.NAME]` of `PLATFORMS_FILE`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use toml::{Table, Value};

use super::super::address::AllowPrivate;
use super::super::destination::{
    DeliveryLimit, Destination, DestinationName, EventFilter, PayloadFormat, PreviousSecret,
};
use super::super::headers::SourceName;
use super::{DestinationDefaults, destination_url, header, signing_key, signing_warning};
use crate::config::{Env, SecretText};
use crate::platform::definition::{ProblemReport, TableReader, child, duration, secret_ref};
use crate::platform::{PlatformName, SecretRef};

/// Applies the file to `destinations`. The platform registry reports an unreadable file.
pub(super) fn apply_file(
    destinations: &mut Vec<Destination>,
    path: &Path,
    defaults: &DestinationDefaults,
    env: &Env,
    secrets: bool,
) {
    let Ok(table) = crate::platform::registry::read(path) else { return };
    let report = ProblemReport::new(path.display().to_string());
    match table.get("destinations") {
        None => {}
        Some(Value::Table(tables)) => {
            let reader = DestinationReader {
                report: &report,
                folder: path.parent(),
                defaults,
                env,
                secrets,
            };
            for (name, value) in tables {
                reader.apply_destination(destinations, name, value);
            }
        }
        Some(_) => report.add("destinations", "must be tables such as [destinations.crm]"),
    }
    report
        .into_problems()
        .into_iter()
        .for_each(|problem| env.problem(&problem.name, problem.reason));
}

struct DestinationReader<'a> {
    report: &'a ProblemReport,
    folder: Option<&'a Path>,
    defaults: &'a DestinationDefaults,
    env: &'a Env,
    secrets: bool,
}

impl DestinationReader<'_> {
    fn apply_destination(&self, destinations: &mut Vec<Destination>, name: &str, value: &Value) {
        let key = child("destinations", name);
        let name = match DestinationName::new(name) {
            Ok(name) => name,
            Err(reason) => return self.report.add(&key, reason.to_string()),
        };
        if name.is_for_registered_platform() {
            // Both destinations would share a queue, and receive each other's deliveries.
            return self.report.add(
                &key,
                "must not begin with platform_, which is reserved for registered platforms",
            );
        }
        let Value::Table(table) = value else { return self.report.add(&key, "must be a table") };
        let known = destinations.iter().position(|one| one.name == name);
        let mut section = TableReader::new(key, table.clone(), self.report);
        let given = section.has("url");
        let url = self.url(&mut section);
        let base = match (known, url) {
            (Some(at), None) => destinations.swap_remove(at),
            (known, Some(url)) => {
                let destination = self.defaults.destination(name, url);
                known.into_iter().for_each(|at| drop(destinations.swap_remove(at)));
                destination
            }
            (None, None) => {
                if !given {
                    section.problem("url", "is missing: https://…, env:NAME or file:path");
                }
                return;
            }
        };
        destinations.push(self.apply_settings(base, section));
        destinations.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Reads the URL, or the reference to it, since its path may be a secret.
    fn url(&self, section: &mut TableReader<'_>) -> Option<url::Url> {
        let text = section.text("url")?;
        let text = match self.reference(&text) {
            None => text,
            Some(Ok(Some(text))) => text.clean().to_owned(),
            Some(Ok(None)) => return None,
            Some(Err(reason)) => {
                section.problem("url", reason);
                return None;
            }
        };
        destination_url(&text).map_err(|reason| section.problem("url", reason)).ok()
    }

    fn apply_settings(
        &self,
        mut destination: Destination,
        mut section: TableReader<'_>,
    ) -> Destination {
        if let Some(name) = section.word("source", SourceName::new) {
            destination.source = name;
        }
        let events = section.words("events", pattern);
        let platforms = section.word("platform", PlatformName::new);
        if events.is_some() || platforms.is_some() {
            destination.subscription =
                EventFilter::new(events.or_else(|| destination.subscription.events()), platforms);
        }
        if let Some(secret) = self.secret(&mut section, "secret") {
            destination.secret = Some(secret);
            // The variables' previous secrets belong to the variables' secret.
            destination.previous_secrets.clear();
        }
        if let Some(secret) = self.secret(&mut section, "previous_secret") {
            destination.previous_secrets = vec![PreviousSecret::lasting(secret)];
        }
        let set_duration = |section: &mut TableReader<'_>, name, value: &mut Duration| {
            if let Some(given) = section.word(name, duration) {
                *value = given;
            }
        };
        set_duration(&mut section, "timeout", &mut destination.timeout);
        set_duration(&mut section, "retry_delay", &mut destination.retry_delay);
        set_duration(&mut section, "max_retry_delay", &mut destination.max_retry_delay);
        if let Some(retries) = section.integer("retries", 0..=1_000) {
            destination.max_attempts = retries + 1;
        }
        if let Some(max) = section.integer("rate_limit", 1..=1_000_000) {
            destination.limit = DeliveryLimit { max, window: Duration::from_secs(60) };
        }
        if let Some(format) = section.word("format", format) {
            destination.format = format;
        }
        if let Some(mention) = section.word("mention", mention) {
            destination.mention = Some(mention);
        }
        if let Some(watch_url) = section.word("watch_url", watch_url) {
            destination.watch_url = Some(watch_url);
        }
        if let Some(most) = section.integer("max_backlog", 1..=100_000_000) {
            destination.max_backlog = u64::from(most);
        }
        if let Some(allowed) = section.word("allow_private", str::parse::<AllowPrivate>) {
            destination.allow_private = Arc::new(allowed);
        }
        if let Some(paused) = section.boolean("paused") {
            destination.paused = paused;
        }
        if let Some(headers) = section.table("headers") {
            self.headers(&mut destination, headers.path().to_owned(), headers.into_entries());
        }
        section.finish();
        destination
    }

    fn headers(&self, destination: &mut Destination, key: String, table: Table) {
        for (name, value) in table {
            let key = child(&key, &name);
            let Some(text) = value.as_str() else {
                self.report.add(&key, "must be a string");
                continue;
            };
            let text = match self.reference(text) {
                None => text.to_owned(),
                Some(Ok(Some(text))) => text.trimmed().to_owned(),
                Some(Ok(None)) => continue,
                Some(Err(reason)) => {
                    self.report.add(&key, reason);
                    continue;
                }
            };
            match header(&name, &text, &destination.source) {
                Ok(header) => {
                    destination.headers.retain(|(one, _)| !one.eq_ignore_ascii_case(&name));
                    destination.headers.push(header);
                }
                Err(reason) => self.report.add(&key, reason),
            }
        }
    }

    fn secret(&self, section: &mut TableReader<'_>, key: &'static str) -> Option<SecretString> {
        let text = section.text(key)?;
        let resolved =
            secret_ref(&text, self.folder).and_then(|reference| self.resolve(&reference));
        let text = resolved.map_err(|reason| section.problem(key, reason)).ok()??;
        if let Some(remark) = signing_warning(&text) {
            self.env.warn(&child(section.path(), key), remark);
        }
        signing_key(&text).map_err(|reason| section.problem(key, reason)).ok()
    }

    /// Resolves `env:…` or `file:…`. `None` for any other text.
    fn reference(&self, text: &str) -> Option<Result<Option<SecretText>, String>> {
        if !text.starts_with("env:") && !text.starts_with("file:") {
            return None;
        }
        Some(secret_ref(text, self.folder).and_then(|reference| self.resolve(&reference)))
    }

    /// Resolves a reference. `Ok(None)`: it is not set, and not needed.
    fn resolve(&self, reference: &SecretRef) -> Result<Option<SecretText>, String> {
        let found = match reference {
            SecretRef::Env(name) => {
                let found = self.env.lookup_text(name).map_err(|problem| problem.to_string());
                found.map(|found| found.map(|(text, _)| text))
            }
            SecretRef::File(path) => match crate::config::read_file(path) {
                Ok(text) => Ok(Some(SecretText::new(text))),
                Err(why) => Err(format!("{reference} {why}")),
            },
        };
        match found {
            Ok(Some(text)) if text.is_empty() => Err(format!("{reference} is empty")),
            Ok(Some(text)) => Ok(Some(text)),
            Ok(None) if self.secrets => Err(format!("{reference} is not set")),
            Err(reason) if self.secrets => Err(reason),
            Ok(None) | Err(_) => Ok(None),
        }
    }
}

fn pattern(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.len() <= crate::event::MAX_EVENT_TYPE_BYTES;
    if fits {
        Ok(text.to_owned())
    } else {
        Err("must be an event type, in which * stands for any text")
    }
}

fn format(text: &str) -> Result<PayloadFormat, &'static str> {
    match text {
        "standard" => Ok(PayloadFormat::Standard),
        "slack" => Ok(PayloadFormat::Slack),
        "discord" => Ok(PayloadFormat::Discord),
        _ => Err("must be standard, slack or discord"),
    }
}

fn mention(text: &str) -> Result<String, &'static str> {
    let role = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if role || matches!(text, "everyone" | "here") {
        Ok(text.to_owned())
    } else {
        Err("must be everyone, here or the id of a role")
    }
}

fn watch_url(text: &str) -> Result<String, &'static str> {
    let filled = text.replace("{stream_id}", "x").replace("{room_id}", "x");
    destination_url(&filled).map(|_| text.to_owned())
}
