//! Configuration from environment variables.
//!
//! Guarantee: start-up sees *all* problems at once, each by the variable's name and never by its value, and nothing
//! starts half-configured: every reader returns a usable default and remembers the problem, [`Env::finish`] decides.
//!
//! Every variable `NAME` may instead come from the file that `NAME_FILE` names (one trailing line break is dropped). A
//! variable that is set but empty counts as not set, since composition files cannot leave one out.
//!
//! Secrets and URLs are read as a [`SecretText`], which knows what was pasted along with them. What
//! is not wrong, but probably not meant, is a warning.

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
mod misspelt;
mod quantity;
mod secret_text;
#[cfg(test)]
mod tests;
mod url_hint;

pub use admin::{AdminAuthError, AdminToken};
pub use common::{CommonConfig, DurabilityMode, DurabilityModeError, redis_url};
pub use misspelt::Misspelt;
pub use quantity::TimeUnit;
pub use secret_text::{SecretText, Surroundings};
pub use url_hint::percent_encoding_hint;

/// A value from a file is at most this long.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Exit status of a process whose configuration has problems.
pub const EXIT_CONFIG: u8 = 2;

/// What is wrong with one variable; never holds its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The variable.
    pub name: String,
    /// What is wrong, as the end of a sentence that begins with the name.
    pub reason: String,
}

impl Problem {
    /// A problem with `name`; `reason` must not quote the value.
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

/// A snapshot of environment variables, and the problems found in it so far.
pub struct Env {
    /// `None`: set, but not UTF-8.
    variables: HashMap<String, Option<String>>,
    problems: Mutex<Vec<Problem>>,
    warnings: Mutex<Vec<Problem>>,
    /// Names that were read so far, whether set or not.
    asked: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("variables", &self.variables.len()).finish_non_exhaustive()
    }
}

impl Env {
    /// The process's environment as it is now.
    #[must_use]
    pub fn from_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self {
            variables,
            problems: Mutex::default(),
            warnings: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// Given variables instead of the process's, for tests.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables =
            pairs.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect();
        Self {
            variables,
            problems: Mutex::default(),
            warnings: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// The value of `name` or the content of `name_FILE`, without remembering a problem.
    ///
    /// # Errors
    /// When it is not UTF-8, given twice, or when the file cannot be read, is empty or longer than 64 KiB.
    pub fn lookup(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.find(name)?.map(|(value, _)| value))
    }

    /// [`lookup`](Self::lookup) for a secret or a URL, with the name of the variable that it is from.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn lookup_text(&self, name: &str) -> Result<Option<(SecretText, String)>, Problem> {
        Ok(self.find(name)?.map(|(value, from)| (SecretText::new(value), from)))
    }

    /// The value of `name`, and whether it is from that variable or from `name_FILE`.
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

    /// The value of `name`, if set.
    pub fn opt(&self, name: &str) -> Option<String> {
        self.remember(self.lookup(name)).flatten()
    }

    /// The value of `name`, or `default`.
    pub fn string(&self, name: &str, default: &str) -> String {
        self.opt(name).unwrap_or_else(|| default.to_owned())
    }

    /// The secret or URL `name`, if set. One of nothing but white space and quotation marks is a
    /// problem.
    pub fn text(&self, name: &str) -> Option<SecretText> {
        let (text, from) = self.remember(self.lookup_text(name)).flatten()?;
        if text.is_empty() {
            self.problem(&from, "holds nothing but white space and quotation marks");
            return None;
        }
        Some(text)
    }

    /// The value of `name` as a `T`, or `default`. `T`'s error must not quote the text.
    pub fn parse<T>(&self, name: &str, default: T) -> T
    where
        T: FromStr<Err: Display>,
    {
        self.parse_opt(name).unwrap_or(default)
    }

    /// The value of `name` as a `T`, if set. `T`'s error must not quote the text.
    pub fn parse_opt<T>(&self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.opt(name)?;
        self.remember(text.trim().parse().map_err(|error| Problem::new(name, error)))
    }

    /// The value of `name` as a number inside `range`, or `default`.
    pub fn bounded<T>(&self, name: &str, default: T, range: RangeInclusive<T>) -> T
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

    /// Address to listen on in `name`, or `default`.
    pub fn address(&self, name: &str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.opt(name) else { return default };
        text.trim().parse().unwrap_or_else(|_| {
            self.problem(
                name,
                format_args!("must be HOST:PORT with an IP address as HOST, such as {default}"),
            );
            default
        })
    }

    /// Duration in `name`, or `default`; a bare number, `default` and `range` are in milliseconds.
    pub fn millis(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> Duration {
        self.duration(name, TimeUnit::Milliseconds, default, range)
    }

    /// Duration in `name`, or `default`; a bare number, `default` and `range` are in `unit`.
    pub fn duration(
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

    /// Size in `name`, or `default`; a bare number, `default` and `range` are in bytes.
    pub fn bytes(&self, name: &str, default: usize, range: RangeInclusive<usize>) -> usize {
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

    /// The value of `name` as a switch: `true` or `false`, also `1` or `0`.
    pub fn flag(&self, name: &str, default: bool) -> bool {
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

    /// Remembers a problem that only the caller can see.
    pub fn problem(&self, name: &str, reason: impl Display) {
        self.problems().push(Problem::new(name, reason));
    }

    /// Remembers a warning; `reason` must not quote the value.
    pub fn warn(&self, name: &str, reason: impl Display) {
        self.all_warnings().push(Problem::new(name, reason));
    }

    /// Logs the warnings so far and forgets them, and logs variables that look meant for this program
    /// and have no effect.
    pub fn log_warnings(&self) {
        self.log_ineffective();
        for Problem { name, reason } in self.warnings() {
            tracing::warn!(
                variable = name,
                reason,
                "configuration may not be what was meant; starting anyway"
            );
        }
    }

    /// The warnings so far, sorted by name; forgets them.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = std::mem::take(&mut *self.all_warnings());
        warnings.sort();
        warnings.dedup();
        warnings
    }

    /// Whether everything that was read so far is good; forgets the problems.
    ///
    /// # Errors
    /// All problems, sorted by name.
    pub fn finish(&self) -> Result<(), Vec<Problem>> {
        let mut problems = std::mem::take(&mut *self.problems());
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn plain(&self, name: &str) -> Result<Option<&str>, Problem> {
        self.asked().insert(name.to_owned());
        match self.variables.get(name) {
            None => Ok(None),
            Some(None) => Err(Problem::new(name, "is not UTF-8")),
            Some(Some(value)) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
        }
    }

    fn remember<T>(&self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems().push(problem)).ok()
    }

    /// Names of the variables that were read from this value so far, without the `NAME_FILE` of
    /// each secret.
    #[must_use]
    pub fn names_read(&self) -> Vec<String> {
        let asked = self.asked();
        let is_file =
            |name: &String| name.strip_suffix("_FILE").is_some_and(|name| asked.contains(name));
        asked.iter().filter(|name| !is_file(name)).cloned().collect()
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problems(&self) -> std::sync::MutexGuard<'_, Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_warnings(&self) -> std::sync::MutexGuard<'_, Vec<Problem>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one value; the error does not name the path, which the operator knows by the variable.
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

/// The problems as they are printed before exiting with [`EXIT_CONFIG`]: a line each.
#[must_use]
pub fn report(problems: &[impl Display]) -> String {
    let mut text = String::from("configuration problems:\n");
    for problem in problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}
