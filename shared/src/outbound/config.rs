//! Reads destinations from the environment and from `PLATFORMS_FILE`.
//!
//! # Guarantees
//!
//! - All problems are reported at once, by variable or key, and never by value
//!   (`destination_problems_are_reported_at_once_without_values`).
//! - The file overrides the variables' destination of the same name. Other destinations in it use
//!   the variables as defaults (`file_overrides_the_variables`).

mod file;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::address::AllowPrivate;
use super::destination::{
    DeliveryLimit, Destination, DestinationName, EventFilter, PayloadFormat, PreviousSecret,
};
use super::headers::{SourceName, is_settable};
use crate::config::variables::{
    DISCORD_WEBHOOK_URL, WEBHOOK_ALLOW_PRIVATE, WEBHOOK_EVENTS, WEBHOOK_HEADERS,
    WEBHOOK_MAX_RETRIES, WEBHOOK_MAX_RETRY_DELAY, WEBHOOK_RATE_LIMIT_MAX,
    WEBHOOK_RATE_LIMIT_WINDOW, WEBHOOK_RETRY_DELAY, WEBHOOK_SECRET_KEY,
    WEBHOOK_SECRET_KEY_PREVIOUS, WEBHOOK_SOURCE, WEBHOOK_TIMEOUT, WEBHOOK_URLS,
};
use crate::config::{Env, SecretText};
use crate::platform::PlatformName;
use crate::visible::is_visible;

/// Variable of the list of URLs.
const URLS: &str = WEBHOOK_URLS.name;
/// Variable of the secret that signs deliveries.
const KEY: &str = WEBHOOK_SECRET_KEY.name;
/// Variable of the secret before [`KEY`], for the time of a rotation.
const PREVIOUS_KEY: &str = WEBHOOK_SECRET_KEY_PREVIOUS.name;
/// Most destinations. Each has its own streams, connections and tasks.
pub const MAX_DESTINATIONS: usize = 64;
/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;
/// Default limit of waiting deliveries for each destination.
const MAX_BACKLOG: u64 = 1_000_000;

/// Default settings of destinations, from the `WEBHOOK_…` variables.
#[derive(Clone, Debug)]
pub struct DestinationDefaults {
    events: Option<Vec<String>>,
    secret: Option<SecretString>,
    previous_secret: Option<SecretString>,
    source: SourceName,
    headers: Vec<(String, SecretString)>,
    timeout: Duration,
    max_attempts: u32,
    retry_delay: Duration,
    max_retry_delay: Duration,
    limit: DeliveryLimit,
    allow_private: Arc<AllowPrivate>,
}

/// The configured destinations.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// The destinations, sorted by name.
    pub destinations: Vec<Destination>,
    /// Settings for registered destinations and for tests of a URL.
    pub defaults: DestinationDefaults,
}

/// Reads the destinations of the `WEBHOOK_…` variables, `DISCORD_WEBHOOK_URL` and `platforms_file`.
///
/// Records problems in `env`. If `secrets` is false (for a process without deliveries), an
/// unresolved reference is not a problem.
#[must_use]
pub fn load(env: &Env, platforms_file: Option<&Path>, secrets: bool) -> OutboundConfig {
    let defaults = DestinationDefaults::read(env);
    let mut destinations = from_variables(env, &defaults);
    if let Some(path) = platforms_file {
        file::apply_file(&mut destinations, path, &defaults, env, secrets);
    }
    if destinations.len() > MAX_DESTINATIONS {
        env.problem(URLS, format_args!("more than {MAX_DESTINATIONS} destinations in all"));
    }
    OutboundConfig { destinations, defaults }
}

impl DestinationDefaults {
    fn read(env: &Env) -> Self {
        let (secret, previous_secret) =
            (signing_secret(env, KEY), signing_secret(env, PREVIOUS_KEY));
        if previous_secret.is_some() && secret.is_none() {
            env.problem(PREVIOUS_KEY, format_args!("needs {KEY}, which replaced it"));
        }
        let source = env.opt(WEBHOOK_SOURCE.name).map(|name| {
            SourceName::new(name.trim()).unwrap_or_else(|reason| {
                env.problem(WEBHOOK_SOURCE.name, reason);
                SourceName::default()
            })
        });
        let source = source.unwrap_or_default();
        Self {
            events: env.opt(WEBHOOK_EVENTS.name).map(|list| patterns(env, &list)),
            secret,
            previous_secret,
            headers: env
                .opt(WEBHOOK_HEADERS.name)
                .map(|list| headers(env, &list, &source))
                .unwrap_or_default(),
            timeout: env.span(&WEBHOOK_TIMEOUT),
            max_attempts: env.number::<u32>(&WEBHOOK_MAX_RETRIES) + 1,
            retry_delay: env.span(&WEBHOOK_RETRY_DELAY),
            max_retry_delay: env.span(&WEBHOOK_MAX_RETRY_DELAY),
            limit: DeliveryLimit {
                max: env.number(&WEBHOOK_RATE_LIMIT_MAX),
                window: env.span(&WEBHOOK_RATE_LIMIT_WINDOW),
            },
            allow_private: Arc::new(env.choice(&WEBHOOK_ALLOW_PRIVATE)),
            source,
        }
    }

    /// Creates a destination with these settings.
    #[must_use]
    pub fn destination(&self, name: DestinationName, url: Url) -> Destination {
        Destination {
            name,
            format: PayloadFormat::of(&url),
            url,
            subscription: EventFilter::new(self.events.clone(), None),
            secret: self.secret.clone(),
            previous_secrets: self
                .previous_secret
                .clone()
                .map(PreviousSecret::lasting)
                .into_iter()
                .collect(),
            timeout: self.timeout,
            max_attempts: self.max_attempts,
            retry_delay: self.retry_delay,
            max_retry_delay: self.max_retry_delay,
            headers: self.headers.clone(),
            limit: self.limit,
            source: self.source.clone(),
            mention: None,
            watch_url: None,
            max_backlog: MAX_BACKLOG,
            allow_private: Arc::clone(&self.allow_private),
            paused: false,
            secret_unreadable: false,
            from_url_list: false,
        }
    }

    /// Creates the destination of a registered platform: it gets that platform's processed events,
    /// signed with its secret.
    ///
    /// # Errors
    /// The platform's name is too long for a destination's name.
    pub fn registered(
        &self,
        platform: &PlatformName,
        url: Url,
        secret: SecretString,
    ) -> Result<Destination, crate::platform::NameError> {
        let name = DestinationName::for_registered_platform(platform)?;
        Ok(Destination {
            subscription: EventFilter::new(None, Some(platform.clone())),
            secret: Some(secret),
            previous_secrets: Vec::new(),
            // The operator's headers may hold credentials for another receiver.
            headers: Vec::new(),
            ..self.destination(name, url)
        })
    }

    /// `WEBHOOK_SOURCE`.
    #[must_use]
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// Default limit of waiting deliveries for each destination.
    #[must_use]
    pub const fn max_backlog(&self) -> u64 {
        MAX_BACKLOG
    }

    /// Addresses that are allowed beside public ones.
    #[must_use]
    pub fn allow_private(&self) -> &Arc<AllowPrivate> {
        &self.allow_private
    }
}

/// Parses a destination's URL: http or https, with a host, without a user name, not too long.
///
/// # Errors
/// Describes the problem without the URL, since its path may be a secret.
pub fn destination_url(text: &str) -> Result<Url, &'static str> {
    const WRONG: &str = "must be an http:// or https:// URL with a host";
    if text.len() > MAX_URL_BYTES {
        return Err("must be at most 2048 bytes long");
    }
    let text = text.trim();
    // The parser would drop line breaks, and so join two URLs.
    if text.contains(|c: char| c.is_whitespace() || !is_visible(c)) {
        return Err(
            "holds a blank, line break or invisible character; several URLs are separated by \
             commas",
        );
    }
    if text.contains(";http://") || text.contains(";https://") {
        return Err("holds two URLs; several URLs are separated by commas");
    }
    let url = Url::parse(text).map_err(|_| WRONG)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(WRONG);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password; use a header");
    }
    Ok(url)
}

fn from_variables(env: &Env, defaults: &DestinationDefaults) -> Vec<Destination> {
    let mut destinations = Vec::new();
    let mut add = |variable: &str, name: &str, text: &str| match destination_url(text) {
        Ok(url) => {
            if let Ok(name) = DestinationName::new(name) {
                let from_url_list = variable == URLS;
                destinations.push(Destination { from_url_list, ..defaults.destination(name, url) });
            }
        }
        Err(reason) => env.problem(variable, format_args!("{name}: {reason}")),
    };
    if let Some(list) = env.text(URLS) {
        for (at, text) in list
            .clean()
            .trim_end_matches(|c: char| c == ',' || c.is_whitespace())
            .split(',')
            .enumerate()
        {
            add(URLS, &format!("webhook_{}", at + 1), text);
        }
    }
    if let Some(text) = env.text(DISCORD_WEBHOOK_URL.name) {
        add("DISCORD_WEBHOOK_URL", "discord", text.clean());
    }
    destinations
}

fn patterns(env: &Env, list: &str) -> Vec<String> {
    let patterns: Vec<String> =
        list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
    if patterns.is_empty() {
        env.problem(
            "WEBHOOK_EVENTS",
            "must name event types, separated by commas; unset it to send all",
        );
    }
    patterns
}

/// Reads the secret in `variable`. Refuses one that Standard Webhooks cannot use, since receivers
/// could not verify the signatures.
fn signing_secret(env: &Env, variable: &str) -> Option<SecretString> {
    let text = env.text(variable)?;
    let key = signing_key(&text).map_err(|reason| env.problem(variable, reason)).ok()?;
    if let Some(remark) = signing_warning(&text) {
        env.warn(variable, remark);
    }
    Some(key)
}

/// The secret that signs deliveries.
///
/// Receivers may use the whole `text`. So only the `whsec_` form loses the characters around it.
pub(crate) fn signing_key(text: &SecretText) -> Result<SecretString, &'static str> {
    let clean = crate::signature::base64_text::without_version(text.clean());
    match clean.strip_prefix("whsec_") {
        Some(rest) if crate::signature::base64_text::decode_secret(rest).is_none() => {
            Err("must be base64 after whsec_")
        }
        Some(_) => Ok(SecretString::from(clean)),
        None => Ok(SecretString::from(text.literal())),
    }
}

/// Warning about a `text` that signs deliveries together with the characters around it.
fn signing_warning(text: &SecretText) -> Option<String> {
    let remark = text.remark()?;
    let as_it_is = signing_key(text).is_ok_and(|key| key.expose_secret() == text.literal());
    as_it_is.then(|| {
        format!("{remark}; deliveries are signed with all of it, which receivers may not expect")
    })
}

fn headers(env: &Env, list: &str, source: &SourceName) -> Vec<(String, SecretString)> {
    let mut headers = Vec::new();
    for piece in list.split(',').filter(|piece| !piece.trim().is_empty()) {
        let Some((name, value)) = piece.split_once(':') else {
            env.problem(WEBHOOK_HEADERS.name, "must be Name:Value, several separated by commas");
            continue;
        };
        match header(name.trim(), value.trim(), source) {
            Ok(header) => headers.push(header),
            Err(reason) => env.problem(WEBHOOK_HEADERS.name, reason),
        }
    }
    headers
}

/// Checks one of the operator's headers.
fn header(name: &str, value: &str, source: &SourceName) -> Result<(String, SecretString), String> {
    if super::client::header_map([(name, value)]).is_err() {
        return Err("holds a name or value that no header can have".to_owned());
    }
    if !is_settable(name, source) {
        return Err(format!("{name} is set by Tributary and cannot be replaced"));
    }
    Ok((name.to_owned(), SecretString::from(value)))
}
