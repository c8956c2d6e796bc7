//! Reads the configuration from environment variables.
//!
//! # Guarantees
//!
//! - Start-up reports all problems at once, by the variable's name and never by its value
//!   (`problems_are_reported_at_once_by_name_without_values`).
//! - A process with a problem does not start. Each method returns a usable default and records the
//!   problem, and [`Env::finish`] returns all of them.
//! - Every variable `NAME` may come from the file that `NAME_FILE` names, without one trailing line
//!   break (`variable_may_come_from_a_file`).
//! - An empty variable counts as not set, since compose files cannot leave one out
//!   (`empty_variable_counts_as_not_set`).
//!
//! Secrets and URLs are read as a [`SecretText`], which detects pasted quotation marks and white
//! space. A value that is valid but probably unintended causes a warning.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display};
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

mod admin;
mod common;
mod help;
mod misspelt;
mod quantity;
mod read;
mod secret_text;
#[cfg(test)]
mod tests;
mod topic;
mod url_hint;
pub mod variables;

pub use admin::{AdminAuthError, AdminToken};
pub use common::{CommonConfig, DurabilityMode, DurabilityModeError, redis_url};
pub use help::{env_file, environment_help, reference_markdown};
pub use misspelt::Misspelt;
pub use quantity::TimeUnit;
pub use secret_text::{SecretText, Surroundings};
pub use topic::Topic;
pub use url_hint::percent_encoding_hint;

/// Longest value that a file may hold.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Exit status of a process whose configuration has problems.
pub const EXIT_CONFIG: u8 = 2;

/// A problem with one variable. It never holds the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Name of the variable.
    pub name: String,
    /// Description that continues a sentence beginning with the name.
    pub reason: String,
}

impl Problem {
    /// Creates a problem with `name`. `reason` must not quote the value.
    pub fn new(name: impl Into<String>, reason: impl Display) -> Self {
        Self { name: name.into(), reason: reason.to_string() }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for Problem {}

/// A snapshot of the environment variables, with the problems found so far.
pub struct Env {
    /// Values by name. `None` is a value that is not UTF-8.
    variables: HashMap<String, Option<String>>,
    problems: Mutex<Vec<Problem>>,
    warnings: Mutex<Vec<Problem>>,
    /// Names that were read so far, set or not.
    read_names: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("variables", &self.variables.len()).finish_non_exhaustive()
    }
}

impl Env {
    /// Takes a snapshot of the process's environment.
    #[must_use]
    pub fn from_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self {
            variables,
            problems: Mutex::default(),
            warnings: Mutex::default(),
            read_names: Mutex::default(),
        }
    }

    /// Creates an environment of the given variables, for tests.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables =
            pairs.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect();
        Self {
            variables,
            problems: Mutex::default(),
            warnings: Mutex::default(),
            read_names: Mutex::default(),
        }
    }

    /// Returns the value of `name` or the content of `name_FILE`. Records no problem.
    ///
    /// # Errors
    /// Both variables are set, the value is not UTF-8, or the file is unreadable, empty or larger
    /// than 64 KiB.
    pub fn lookup(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.find(name)?.map(|(value, _)| value))
    }

    /// Returns a secret or URL, and the name of the variable that held it.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn lookup_text(&self, name: &str) -> Result<Option<(SecretText, String)>, Problem> {
        Ok(self.find(name)?.map(|(value, from)| (SecretText::new(value), from)))
    }

    /// Returns the value of `name`, and the name of the variable that held it: `name` or
    /// `name_FILE`.
    fn find(&self, name: &str) -> Result<Option<(String, String)>, Problem> {
        let file_name = format!("{name}_FILE");
        match (self.plain(name)?, self.plain(&file_name)?) {
            (Some(_), Some(_)) => {
                Err(Problem::new(name, format_args!("is set, and {file_name} too; unset one")))
            }
            (Some(value), None) => Ok(Some((value.to_owned(), name.to_owned()))),
            (None, Some(path)) => match read_file(path) {
                Ok(value) => Ok(Some((value, file_name))),
                Err(reason) => Err(Problem::new(file_name, reason)),
            },
            (None, None) => Ok(None),
        }
    }

    /// Value of `name`, if it is set.
    pub fn opt(&self, name: &str) -> Option<String> {
        self.remember(self.lookup(name)).flatten()
    }

    /// Value of `name`, or `default`.
    pub(crate) fn string(&self, name: &str, default: &str) -> String {
        self.opt(name).unwrap_or_else(|| default.to_owned())
    }

    /// Secret or URL in `name`, if it is set. Records a problem if it holds only white space and
    /// quotation marks.
    pub fn text(&self, name: &str) -> Option<SecretText> {
        let (text, from) = self.remember(self.lookup_text(name)).flatten()?;
        if text.is_empty() {
            self.problem(&from, "holds nothing but white space and quotation marks");
            return None;
        }
        Some(text)
    }

    /// Value of `name` as a `T`, or `default`. `T`'s error must not quote the text.
    pub(crate) fn parse<T>(&self, name: &str, default: T) -> T
    where
        T: FromStr<Err: Display>,
    {
        self.parse_opt(name).unwrap_or(default)
    }

    /// Value of `name` as a `T`, if it is set. `T`'s error must not quote the text.
    pub(crate) fn parse_opt<T>(&self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.opt(name)?;
        self.remember(text.trim().parse().map_err(|error| Problem::new(name, error)))
    }

    /// Value of `name` as a number in `range`, or `default`.
    pub(crate) fn bounded<T>(&self, name: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr<Err: Display> + PartialOrd + Display,
    {
        let Some(text) = self.opt(name) else { return default };
        let (least, most) = (range.start(), range.end());
        match text.trim().parse::<T>() {
            Ok(value) if range.contains(&value) => return value,
            Ok(_) => self.problem(name, format_args!("must be between {least} and {most}")),
            Err(_) => {
                self.problem(name, format_args!("must be a number between {least} and {most}"))
            }
        }
        default
    }

    /// Listen address in `name`, or `default`.
    pub(crate) fn address(&self, name: &str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.opt(name) else { return default };
        text.trim().parse().unwrap_or_else(|_| {
            self.problem(
                name,
                format_args!("must be HOST:PORT with an IP address as HOST, such as {default}"),
            );
            default
        })
    }

    /// Duration in `name`, or `default`. Bare numbers, `default` and `range` are in `unit`.
    pub(crate) fn duration(
        &self,
        name: &str,
        unit: TimeUnit,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        let of = |number: u64| Duration::from_millis(number.saturating_mul(unit.millis()));
        let Some(text) = self.opt(name) else { return of(default) };
        let word = unit.name();
        match quantity::duration(&text, unit) {
            Some(found) if found >= of(*range.start()) && found <= of(*range.end()) => {
                return found;
            }
            Some(_) => self.problem(
                name,
                format_args!("must be between {} and {} {word}", range.start(), range.end()),
            ),
            None => self.problem(
                name,
                format_args!(
                    "must be a number of {word}, or have a unit: 1500ms, 30s, 5m, 24h, 7d"
                ),
            ),
        }
        of(default)
    }

    /// Size in `name`, or `default`. Bare numbers, `default` and `range` are in bytes.
    pub(crate) fn bytes(&self, name: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let Some(text) = self.opt(name) else { return default };
        match quantity::bytes(&text).map(|found| usize::try_from(found).unwrap_or(usize::MAX)) {
            Some(found) if range.contains(&found) => return found,
            Some(_) => self.problem(
                name,
                format_args!("must be between {} and {} bytes", range.start(), range.end()),
            ),
            None => {
                self.problem(name, "must be a number of bytes, or have a unit: 512k, 1MB, 1MiB")
            }
        }
        default
    }

    /// Boolean in `name`, or `default`: `true` or `false`, also `1` or `0`.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        match self.opt(name).as_deref().map(str::trim) {
            None => default,
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(_) => {
                self.problem(name, "must be true or false");
                default
            }
        }
    }

    /// Records a problem that only the caller can detect.
    pub fn problem(&self, name: &str, reason: impl Display) {
        self.problems().push(Problem::new(name, reason));
    }

    /// Records a warning. `reason` must not quote the value.
    pub fn warn(&self, name: &str, reason: impl Display) {
        self.all_warnings().push(Problem::new(name, reason));
    }

    /// Logs and clears the warnings so far. Also logs set variables that probably address this
    /// program but have no effect.
    pub fn log_warnings(&self) {
        self.log_ineffective();
        for Problem { name, reason } in self.warnings() {
            tracing::warn!(
                variable = name,
                reason,
                "configuration value is probably unintended; starting anyway"
            );
        }
    }

    /// Removes and returns the warnings so far, sorted by name.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = std::mem::take(&mut *self.all_warnings());
        warnings.sort();
        warnings.dedup();
        warnings
    }

    /// Ends a round of reading, and clears the problems.
    ///
    /// # Errors
    /// All problems since the last call, sorted by name.
    pub fn finish(&self) -> Result<(), Vec<Problem>> {
        let mut problems = std::mem::take(&mut *self.problems());
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn plain(&self, name: &str) -> Result<Option<&str>, Problem> {
        self.read_names().insert(name.to_owned());
        match self.variables.get(name) {
            None => Ok(None),
            Some(None) => Err(Problem::new(name, "is not UTF-8")),
            Some(Some(value)) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
        }
    }

    fn remember<T>(&self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems().push(problem)).ok()
    }

    /// Names of the variables that were read so far, without the `NAME_FILE` of each secret.
    #[must_use]
    pub fn names_read(&self) -> Vec<String> {
        let read_names = self.read_names();
        let is_file = |name: &String| {
            name.strip_suffix("_FILE").is_some_and(|name| read_names.contains(name))
        };
        read_names.iter().filter(|name| !is_file(name)).cloned().collect()
    }

    fn read_names(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.read_names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problems(&self) -> std::sync::MutexGuard<'_, Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_warnings(&self) -> std::sync::MutexGuard<'_, Vec<Problem>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the value in a file. The error omits the path, since the variable's name identifies it.
pub(crate) fn read_file(path: &str) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("names a file of more than {MAX_FILE_BYTES} bytes"));
    }
    let mut text =
        String::from_utf8(bytes).map_err(|_| "names a file that is not UTF-8".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() { Err("names an empty file".to_owned()) } else { Ok(text) }
}

/// Formats `problems` for output before exit with [`EXIT_CONFIG`], one line each.
#[must_use]
pub fn report(problems: &[impl Display]) -> String {
    let mut text = String::from("configuration problems:\n");
    for problem in problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}
