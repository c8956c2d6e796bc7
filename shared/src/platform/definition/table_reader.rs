//! Reads a TOML table key by key and collects the problems.
//!
//! # Guarantees
//!
//! - Every problem is reported with its full key, and none stops the reading
//!   (`compile_reports_all_problems_at_once`).
//! - A key that was not read is reported as unknown (`unknown_keys_are_refused_at_every_level`).

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::config::Problem;

/// Collects the problems of one file.
pub(crate) struct ProblemReport {
    file: String,
    problems: RefCell<Vec<Problem>>,
}

impl ProblemReport {
    pub(crate) fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), problems: RefCell::default() }
    }

    /// Adds a problem. `reason` must not repeat a value that may be a secret.
    pub(crate) fn add(&self, key: &str, reason: impl Into<String>) {
        let place = match (self.file.as_str(), key) {
            (file, "") => file.to_owned(),
            ("", key) => key.to_owned(),
            (file, key) => format!("{file}: {key}"),
        };
        self.problems.borrow_mut().push(Problem::new(place, reason.into()));
    }

    pub(crate) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// Returns the full key of `key` in the table `parent`, quoted if TOML requires it.
pub(crate) fn child(parent: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

/// Reader of one table.
pub(crate) struct TableReader<'r> {
    key: String,
    table: Table,
    known: Vec<&'static str>,
    report: &'r ProblemReport,
}

impl<'r> TableReader<'r> {
    pub(crate) fn new(key: impl Into<String>, table: Table, report: &'r ProblemReport) -> Self {
        Self { key: key.into(), table, known: Vec::new(), report }
    }

    pub(crate) fn report(&self) -> &'r ProblemReport {
        self.report
    }

    /// Full key of the table.
    pub(crate) fn path(&self) -> &str {
        &self.key
    }

    pub(crate) fn key(&self, name: &str) -> String {
        child(&self.key, name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Returns true if `name` is an empty list.
    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        self.table.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    pub(crate) fn problem(&self, name: &str, reason: impl Into<String>) {
        self.report.add(&self.key(name), reason);
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.table.remove(name)
    }

    /// Takes `name` and parses it. An error is reported as a problem.
    pub(crate) fn parse<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(self.take(name)?);
        parsed.map_err(|reason| self.problem(name, reason)).ok()
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.parse(name, |value| value.as_bool().ok_or_else(|| "must be true or false".to_owned()))
    }

    pub(crate) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        self.parse(name, |value| {
            let fits = value
                .as_integer()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| range.contains(n));
            fits.ok_or_else(|| {
                format!("must be a whole number from {} to {}", range.start(), range.end())
            })
        })
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.parse(name, |value| match value {
            Value::String(text) => Ok(text),
            _ => Err("must be a string".to_owned()),
        })
    }

    /// Takes a text and parses it.
    pub(crate) fn word<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|reason| self.problem(name, reason.to_string())).ok()
    }

    /// Takes a list. A single value counts as a list of one.
    pub(crate) fn list(&mut self, name: &'static str) -> Option<Vec<Value>> {
        Some(match self.take(name)? {
            Value::Array(list) => list,
            one => vec![one],
        })
    }

    /// Takes one text or a list of texts and parses each. Every invalid one is reported separately.
    pub(crate) fn words<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let list = self.list(name)?;
        Some(words(&self.key(name), list, self.report, parse))
    }

    pub(crate) fn table(&mut self, name: &'static str) -> Option<TableReader<'r>> {
        let table = self.parse(name, |value| match value {
            Value::Table(table) => Ok(table),
            _ => Err("must be a table".to_owned()),
        })?;
        Some(TableReader::new(self.key(name), table, self.report))
    }

    /// Returns all entries, for tables whose keys are names that the user chose.
    pub(crate) fn into_entries(self) -> Table {
        self.table
    }

    /// Reports all keys that were not read as unknown.
    pub(crate) fn finish(self) {
        for name in self.table.keys() {
            self.problem(name, format!("unknown key; known here: {}", self.known.join(", ")));
        }
    }
}

/// Parses each text of `list` and reports the invalid ones.
pub(crate) fn words<T, E: std::fmt::Display>(
    key: &str,
    list: Vec<Value>,
    report: &ProblemReport,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    let several = list.len() > 1;
    let mut parsed = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let key = if several { format!("{key}[{index}]") } else { key.to_owned() };
        match value.as_str().map(&parse) {
            Some(Ok(one)) => parsed.push(one),
            Some(Err(reason)) => report.add(&key, reason.to_string()),
            None => report.add(&key, "must be a string"),
        }
    }
    parsed
}
