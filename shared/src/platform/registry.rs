//! Holds all platforms of this process and finds them by name.
//!
//! # Guarantees
//!
//! - Every definition in a registry is valid (`platform_in_the_file_requires_its_secrets`,
//!   `invalid_platform_names_are_refused`).
//! - No two platforms share a name (`platforms_sharing_a_name_are_refused`).
//! - The reserved platform is listed for readers of queues, but requests cannot find it by name
//!   (`reserved_platform_is_first_and_not_found_by_name`).
//! - The number of platforms is bounded (`platforms_are_bounded`).

mod registered;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use super::bundled;
use super::definition::{self, Definition, ProblemReport, child};
use super::secrets::{self, SecretRequirement};
use super::types::{Platform, PlatformName, PlatformSource};
use crate::config::{Env, Problem};
use crate::signature::{Keys, Secret};

pub use registered::{NameConflict, platform_name};

/// Longest `PLATFORMS_FILE` in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Maximum number of platforms. Each has its own streams, metrics and consumers.
pub const MAX_PLATFORMS: usize = 256;

/// All platforms. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<RegistryInner>,
}

struct RegistryInner {
    sessions: Arc<Platform>,
    entries: Vec<RegistryEntry>,
    by_name: HashMap<PlatformName, usize>,
    file: String,
    /// Base of registered definitions.
    bundled: Arc<Bundled>,
}

#[derive(Clone)]
struct RegistryEntry {
    platform: Arc<Platform>,
    /// Set if the user named the secrets, instead of using the bundled variables.
    own_secrets: bool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|platform| platform.name.as_str())).finish()
    }
}

impl Registry {
    /// Loads the bundled platforms and merges `platforms_file` into them.
    ///
    /// # Errors
    /// Returns all problems of the file.
    pub fn load(platforms_file: Option<&Path>) -> Result<Self, Vec<Problem>> {
        require_valid(Self::read(platforms_file)?)
    }

    /// Combines [`load`](Self::load) and [`resolve`](Self::resolve). A problem of one definition
    /// does not hide the missing secrets of others.
    ///
    /// # Errors
    /// Returns all problems of the file and the secrets.
    pub fn load_resolved(
        platforms_file: Option<&Path>,
        env: &Env,
    ) -> Result<(Self, HashMap<PlatformName, Keys>), Vec<Problem>> {
        let (registry, mut problems) = Self::read(platforms_file)?;
        let resolved = registry.resolve(env).unwrap_or_else(|more| {
            problems.extend(more);
            HashMap::new()
        });
        problems.extend(registry.verify_tokens(env).err().unwrap_or_default());
        Ok((require_valid((registry, problems))?, resolved))
    }

    fn read(platforms_file: Option<&Path>) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let Some(path) = platforms_file else {
            return Self::assemble("", Table::new(), None);
        };
        let file = path.display().to_string();
        let table = read(path).map_err(|reason| vec![Problem::new(&file, reason)])?;
        Self::assemble(&file, table, path.parent())
    }

    /// Loads the registry like [`load`](Self::load), from the text of a file. Relative paths of
    /// secrets stay relative.
    ///
    /// # Errors
    /// Returns all problems, with `file` as the place.
    pub fn from_text(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let table = parse(text).map_err(|reason| vec![Problem::new(file, reason)])?;
        require_valid(Self::assemble(file, table, None)?)
    }

    /// Assembles the valid definitions and returns the problems of the others.
    fn assemble(
        file: &str,
        table: Table,
        folder: Option<&Path>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let report = ProblemReport::new(file);
        let bundled = Bundled::parse()?;
        let mut loader = Loader { report: &report, folder, bundled: &bundled, entries: Vec::new() };
        loader.add_user_platforms(table);
        loader.add_other_bundled();
        let entries = loader.entries;
        let by_name = by_name(&entries, &report);
        let sessions = compile_reserved()?;
        let mut problems = report.into_problems();
        problems.sort();
        let (sessions, bundled) = (Arc::new(sessions), Arc::new(bundled));
        let inner = RegistryInner { sessions, entries, by_name, file: file.to_owned(), bundled };
        Ok((Self { inner: Arc::new(inner) }, problems))
    }

    /// Returns the platform with this canonical name or alias, but never the reserved one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Platform>> {
        let index = *self.inner.by_name.get(name)?;
        self.inner.entries.get(index).map(|entry| &entry.platform)
    }

    /// Reserved platform on which applications announce sessions.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Platform> {
        &self.inner.sessions
    }

    /// All platforms. The reserved one comes first, so that announcements are read before the
    /// events that need them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Platform>> {
        std::iter::once(&self.inner.sessions)
            .chain(self.inner.entries.iter().map(|entry| &entry.platform))
    }

    /// Resolves the keys of each enabled platform. A bundled platform that is not in the file is
    /// left out if its variables are not set.
    ///
    /// # Errors
    /// Returns every secret that is missing, unreadable, empty or invalid, by reference, never by
    /// value.
    pub fn resolve(&self, env: &Env) -> Result<HashMap<PlatformName, Keys>, Vec<Problem>> {
        let (mut resolved, mut problems) = (HashMap::new(), Vec::new());
        for entry in self.inner.entries.iter().filter(|entry| entry.platform.enabled) {
            match self.resolve_one(entry, env) {
                Ok(Some(keys)) => {
                    resolved.insert(entry.platform.name.clone(), keys);
                }
                Ok(None) => {}
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() { Ok(resolved) } else { Err(problems) }
    }

    /// Resolves the keys of one platform, enabled or not. Returns `None` for a bundled one whose
    /// variables are not set.
    ///
    /// # Errors
    /// Returns the same errors as [`resolve`](Self::resolve), for this platform only.
    pub fn keys(&self, platform: &Platform, env: &Env) -> Result<Option<Keys>, Vec<Problem>> {
        let entry = self.inner.entries.iter().find(|entry| entry.platform.name == platform.name);
        entry.map_or(Ok(None), |entry| self.resolve_one(entry, env))
    }

    /// Resolves the verify tokens of the handshakes of enabled platforms.
    ///
    /// # Errors
    /// Returns every token that is missing, unreadable or empty, by reference, never by value.
    pub fn verify_tokens(&self, env: &Env) -> Result<HashMap<PlatformName, Secret>, Vec<Problem>> {
        let (mut tokens, mut problems) = (HashMap::new(), Vec::new());
        for platform in self
            .inner
            .entries
            .iter()
            .map(|entry| &entry.platform)
            .filter(|platform| platform.enabled)
        {
            let key = child(&child("platforms", platform.name.as_str()), "handshake");
            let place = format!("{}: {}", self.inner.file, child(&key, "verify_token"));
            match secrets::verify_token(platform, env, &place) {
                Ok(token) => tokens.extend(token.map(|token| (platform.name.clone(), token))),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() { Ok(tokens) } else { Err(problems) }
    }

    fn resolve_one(&self, entry: &RegistryEntry, env: &Env) -> Result<Option<Keys>, Vec<Problem>> {
        let RegistryEntry { platform, own_secrets } = entry;
        let need = match (own_secrets, platform.source) {
            (true, _) => SecretRequirement::All,
            (false, PlatformSource::File) => SecretRequirement::Any,
            (
                false,
                PlatformSource::Bundled | PlatformSource::Registered | PlatformSource::Reserved,
            ) => SecretRequirement::Optional,
        };
        let kind = if platform.scheme.uses_credentials() { "credentials" } else { "secrets" };
        let key = child(&child("platforms", platform.name.as_str()), kind);
        let place = if need == SecretRequirement::Optional {
            key
        } else {
            format!("{}: {key}", self.inner.file)
        };
        secrets::resolve(platform, need, env, &place)
    }
}

fn require_valid((registry, problems): (Registry, Vec<Problem>)) -> Result<Registry, Vec<Problem>> {
    if problems.is_empty() { Ok(registry) } else { Err(problems) }
}

/// Reads the TOML file at `path`.
pub(crate) fn read(path: &Path) -> Result<Table, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes"));
    }
    parse(&text)
}

/// Parses TOML. The error has only the line and the reason, since the text around it may be an
/// inline secret.
fn parse(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("line {line}: not TOML: {}", error.message())
    })
}

/// Bundled definitions, merged with their own presets.
struct Bundled(Vec<(&'static str, Table)>);

impl Bundled {
    fn parse() -> Result<Self, Vec<Problem>> {
        let raw = |name: &'static str, text| {
            let broken = |error: toml::de::Error| vec![Problem::new(name, error.message())];
            bundled::parse(text).map_err(broken)
        };
        let mut tables = Vec::new();
        for (name, text) in bundled::DEFINITIONS {
            let table = raw(name, text)?;
            let preset = table.get("preset").and_then(Value::as_str);
            let table = match preset.and_then(bundled::text) {
                Some(preset) => definition::from_preset(raw(name, preset)?, table),
                None => table,
            };
            tables.push((*name, table));
        }
        Ok(Self(tables))
    }

    fn get(&self, name: &str) -> Option<&Table> {
        self.0.iter().find(|(one, _)| *one == name).map(|(_, table)| table)
    }

    /// Merges the user's definition into its own bundled definition or its preset.
    fn merged(&self, name: &str, key: &str, table: Table, report: &ProblemReport) -> Option<Table> {
        let own = self.get(name);
        let preset = match table.get("preset") {
            None => bundled::DEFAULT_PRESET,
            Some(Value::String(preset)) if self.get(preset).is_some() => preset.as_str(),
            Some(_) => {
                let names: Vec<_> = bundled::names().collect();
                report.add(&child(key, "preset"), format!("must be one of: {}", names.join(" ")));
                return None;
            }
        };
        if let Some(own) = own.filter(|_| !table.contains_key("preset") || preset == name) {
            return Some(definition::overridden(own.clone(), table));
        }
        Some(definition::from_preset(self.get(preset)?.clone(), table))
    }
}

struct Loader<'a> {
    report: &'a ProblemReport,
    folder: Option<&'a Path>,
    bundled: &'a Bundled,
    entries: Vec<RegistryEntry>,
}

impl Loader<'_> {
    /// Adds the platforms of the user's file.
    fn add_user_platforms(&mut self, mut table: Table) {
        let platforms = match table.remove("platforms") {
            None => Table::new(),
            Some(Value::Table(platforms)) => platforms,
            Some(_) => {
                return self.report.add("platforms", "must be tables such as [platforms.acme]");
            }
        };
        // `outbound::config` reads the destinations.
        table.remove("destinations");
        for key in table.keys() {
            self.report.add(&child("", key), "unknown key; known here: platforms, destinations");
        }
        if platforms.len() > MAX_PLATFORMS {
            return self.report.add("platforms", format!("must be at most {MAX_PLATFORMS}"));
        }
        for (name, value) in platforms {
            self.add_user_platform(&name, value);
        }
    }

    fn add_user_platform(&mut self, name: &str, value: Value) {
        let key = child("platforms", name);
        let parsed =
            definition::platform_name(name).map_err(|reason| self.report.add(&key, reason));
        let Value::Table(table) = value else {
            return self
                .report
                .add(&key, "must be a table; `enabled = false` switches a platform off");
        };
        let own_secrets = ["secrets", "credentials"].iter().any(|kind| table.contains_key(*kind));
        let Some(table) = self.bundled.merged(name, &key, table, self.report) else { return };
        // An invalid name is already reported. The stand-in lets the rest of the definition be
        // checked too.
        let name = parsed.or_else(|()| PlatformName::new("unnamed"));
        let Ok(name) = name else { return };
        let definition =
            Definition { key, name, source: PlatformSource::File, table, folder: self.folder };
        if let Some(platform) = definition::compile(definition, self.report) {
            self.entries.push(RegistryEntry { platform: Arc::new(platform), own_secrets });
        }
    }

    /// Adds the bundled platforms that the user's file does not name.
    fn add_other_bundled(&mut self) {
        let named: Vec<_> = self.entries.iter().map(|entry| entry.platform.name.clone()).collect();
        for (name, table) in &self.bundled.0 {
            let Ok(name) = PlatformName::new(name) else { continue };
            if named.contains(&name) {
                continue;
            }
            let key = child("platforms", name.as_str());
            let definition = Definition {
                key,
                name,
                source: PlatformSource::Bundled,
                table: table.clone(),
                folder: None,
            };
            if let Some(platform) = definition::compile(definition, self.report) {
                self.entries
                    .push(RegistryEntry { platform: Arc::new(platform), own_secrets: false });
            }
        }
    }
}

fn compile_reserved() -> Result<Platform, Vec<Problem>> {
    let report = ProblemReport::new("the reserved platform");
    let table = bundled::parse(bundled::SESSIONS).map_err(|error| report.add("", error.message()));
    let name = PlatformName::new(PlatformName::SESSIONS)
        .map_err(|reason| report.add("", reason.to_string()));
    let platform = match (table, name) {
        (Ok(table), Ok(name)) => {
            let key = child("platforms", name.as_str());
            definition::compile(
                Definition { key, name, source: PlatformSource::Reserved, table, folder: None },
                &report,
            )
        }
        _ => None,
    };
    platform.ok_or_else(|| report.into_problems())
}

fn by_name(entries: &[RegistryEntry], report: &ProblemReport) -> HashMap<PlatformName, usize> {
    let platforms = || entries.iter().map(|entry| &entry.platform).enumerate();
    let mut by_name: HashMap<_, _> =
        platforms().map(|(index, platform)| (platform.name.clone(), index)).collect();
    for (index, platform) in platforms() {
        for alias in &platform.aliases {
            let Some(other) = by_name.insert(alias.clone(), index).filter(|other| *other != index)
            else {
                continue;
            };
            let Some(other) = entries.get(other).map(|entry| &entry.platform) else { continue };
            // The problem names the platform that the user can change.
            let (mine, theirs) = if platform.source == PlatformSource::File {
                (platform, other)
            } else {
                (other, platform)
            };
            let key = child("platforms", mine.name.as_str());
            report
                .add(&key, format!("the name {alias} belongs to the platform {} too", theirs.name));
        }
    }
    by_name
}

#[cfg(test)]
mod tests;
