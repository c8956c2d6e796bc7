//! Finds variables that resemble a variable of this program, but are not read.

use std::fmt;

use super::{Env, Problem};

/// Letters of a name for each permitted edit.
const LETTERS_PER_EDIT: usize = 6;
const MAX_EDITS: usize = 3;

/// Units at the end of a name. `SHUTDOWN_GRACE` is probably meant as `SHUTDOWN_GRACE_MS`.
const UNITS: &[&str] = &[
    "MS", "MILLIS", "S", "SEC", "SECS", "SECONDS", "MINUTES", "HOURS", "DAYS", "BYTES", "SIZE",
    "KB", "MB",
];

/// Variables from which other HTTP clients take a proxy.
const PROXY_VARIABLES: &[&str] =
    &["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// A variable whose name is probably a misspelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misspelt {
    /// Name in the environment.
    pub variable: String,
    /// The most similar variable of this program that is not set.
    pub nearest: String,
}

impl fmt::Display for Misspelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, nearest } = self;
        write!(f, "{variable} is not a variable of this program; did you mean {nearest}?")
    }
}

impl Env {
    /// Variables that resemble an unset variable of this program.
    ///
    /// The program's variables are those that were read from this value, so call it last.
    #[must_use]
    pub fn misspelt(&self) -> Vec<Misspelt> {
        let read_names = self.read_names().clone();
        let unset: Vec<&String> = read_names.iter().filter(|name| !self.is_given(name)).collect();
        let mut found: Vec<Misspelt> = Vec::new();
        for (variable, value) in &self.variables {
            let is_empty = value.as_deref() == Some("");
            if is_empty || read_names.contains(variable) || is_of_a_service(variable) {
                continue;
            }
            let near = unset.iter().filter_map(|name| Some((distance(variable, name)?, *name)));
            if let Some((_, nearest)) = near.min() {
                found.push(Misspelt { variable: variable.clone(), nearest: nearest.clone() });
            }
        }
        found.sort_by(|a, b| a.variable.cmp(&b.variable));
        found
    }

    /// Logs each set variable that probably addresses this program but has no effect.
    pub(super) fn log_ineffective(&self) {
        for Misspelt { variable, nearest } in self.misspelt() {
            tracing::warn!(
                variable,
                nearest,
                "not a variable of this program; did you mean the nearest one?"
            );
        }
        for variable in PROXY_VARIABLES.iter().filter(|name| self.is_given(name)) {
            tracing::warn!(
                variable,
                "proxies are not supported; ignoring the variable, since a proxy could connect to \
                 addresses that WEBHOOK_ALLOW_PRIVATE refuses"
            );
        }
    }

    /// Formats `problems` for output before exit, with the variables that may explain them.
    #[must_use]
    pub fn report(&self, problems: &[Problem]) -> String {
        let mut text = super::report(problems);
        for misspelt in self.misspelt() {
            text.push_str(&format!("  {misspelt}\n"));
        }
        text
    }

    /// Returns true if `name` has a value, from the variable itself or from a file.
    fn is_given(&self, name: &str) -> bool {
        let base = name.strip_suffix("_FILE").unwrap_or(name);
        let is_set =
            |name: &str| self.variables.get(name).is_some_and(|value| value.as_deref() != Some(""));
        is_set(name) || is_set(base) || is_set(&format!("{base}_FILE"))
    }
}

/// Number of edits between two names, or `None` if they differ too much.
fn distance(variable: &str, name: &str) -> Option<usize> {
    let spelled = variable.to_ascii_uppercase().replace(['-', '.'], "_");
    if without_unit(&spelled) == without_unit(name) {
        return Some(0);
    }
    if is_missing_a_word(&spelled, name) {
        return Some(1);
    }
    let allowed = (name.len() / LETTERS_PER_EDIT).min(MAX_EDITS);
    let edits = strsim::damerau_levenshtein(&spelled, name);
    (edits <= allowed).then_some(edits)
}

/// Returns true if `name` has four words or more and `variable` lacks one of its inner words.
fn is_missing_a_word(variable: &str, name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let inner = 1..words.len().saturating_sub(1);
    words.len() > 3
        && inner.into_iter().any(|left_out| {
            let rest =
                words.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, word)| *word);
            variable.split('_').eq(rest)
        })
}

fn without_unit(name: &str) -> &str {
    name.rsplit_once('_').filter(|(_, unit)| UNITS.contains(unit)).map_or(name, |(rest, _)| rest)
}

/// Returns true for a variable that Kubernetes sets for a service, such as `REDIS_PORT_6379_TCP`.
fn is_of_a_service(variable: &str) -> bool {
    let port = |(_, rest): (&str, &str)| rest.starts_with(|c: char| c.is_ascii_digit());
    ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|part| variable.contains(part))
        || variable.ends_with("_PORT")
        || variable.split_once("_PORT_").is_some_and(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables that are found after a program has read some of its own.
    fn found(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let env = Env::from_pairs(pairs.iter().copied());
        for name in [
            "REDIS_URL",
            "REDIS_CLUSTER",
            "WEBHOOK_URLS",
            "WEBHOOK_MAX_RETRIES",
            "WEBHOOK_SECRET_KEY",
            "WEBHOOK_TIMEOUT",
            "STREAMING_WEBHOOK_SIGNING_SECRET",
            "NETFLIX_WEBHOOK_SECRET",
            "MAX_BODY_BYTES",
            "SHUTDOWN_GRACE_MS",
            "OPS_BIND",
            "PLATFORMS_FILE",
        ] {
            let _ = env.lookup(name);
        }
        env.misspelt().into_iter().map(|one| (one.variable, one.nearest)).collect()
    }

    fn nearest(variable: &str) -> Option<String> {
        found(&[(variable, "x")]).pop().map(|(_, nearest)| nearest)
    }

    #[test]
    fn misspelt_variable_names_the_nearest() {
        for (variable, expected) in [
            ("WEBHOOK_MAX_RETRYS", "WEBHOOK_MAX_RETRIES"),
            ("WEBHOOK_URL", "WEBHOOK_URLS"),
            ("WEBHOOK_SECRETKEY", "WEBHOOK_SECRET_KEY"),
            ("WEBHOOK_TIMEOUT_MS", "WEBHOOK_TIMEOUT"),
            ("REDIS_URI", "REDIS_URL"),
            ("REDIS_ULR", "REDIS_URL"),
            ("REDISURL", "REDIS_URL"),
            ("STREAMING_WEBHOOK_SECRET", "STREAMING_WEBHOOK_SIGNING_SECRET"),
            ("redis_url", "REDIS_URL"),
            ("MAX_BODY_SIZE", "MAX_BODY_BYTES"),
            ("SHUTDOWN_GRACE", "SHUTDOWN_GRACE_MS"),
            ("SHUTDOWN_GRACE_SECONDS", "SHUTDOWN_GRACE_MS"),
            ("PLATFORM_FILE", "PLATFORMS_FILE"),
            ("WEBHOOK_SECRET_KEY_FIL", "WEBHOOK_SECRET_KEY_FILE"),
        ] {
            assert_eq!(nearest(variable).as_deref(), Some(expected), "{variable}");
        }
    }

    #[test]
    fn unrelated_variables_name_nothing() {
        for variable in [
            "WEBHOOK_SECRET",
            "REDIS_PORT",
            "REDIS_HOST",
            "REDIS_PASSWORD",
            "PATH",
            "HOSTNAME",
            "PS1",
            "INGRESS_BIND",
            "HTTP_BIND",
            "MAX_ATTEMPTS",
        ] {
            assert_eq!(nearest(variable), None, "{variable}");
        }
    }

    #[test]
    fn variables_of_kubernetes_services_name_nothing() {
        let service = [
            ("REDIS_SERVICE_HOST", "10.0.0.1"),
            ("REDIS_PORT", "tcp://10.0.0.1:6379"),
            ("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
            ("REDIS_PORT_6379_TCP_PROTO", "tcp"),
            ("REDIS_SERVICE_PORT_REDIS", "6379"),
            ("REDIS_URL_PORT", "of a service named redis-url"),
        ];
        assert_eq!(found(&service), []);
    }

    #[test]
    fn variable_that_is_set_is_not_suggested() {
        assert_eq!(found(&[("REDIS_URL", "redis://a"), ("REDIS_URI", "b")]), []);
        assert_eq!(found(&[("REDIS_URL_FILE", "/a"), ("REDIS_URI", "b")]), []);
        assert_eq!(found(&[("REDIS_URI", "")]), [], "set to nothing");
        assert_eq!(found(&[("REDIS_URL", ""), ("REDIS_URI", "b")]).len(), 1, "set to nothing");
    }
}
