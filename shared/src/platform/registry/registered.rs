//! Adds registered platforms to the bundled ones and those of the file.
//!
//! # Guarantees
//!
//! - A registered definition passes the same checks as one in the file
//!   (`registered_platform_problems_name_their_keys`).
//! - It takes no existing name. The file comes first, then the order of registration
//!   (`registered_platform_takes_no_existing_name`).
//! - It has no secret references and only its own sessions, independent of its preset
//!   (`registered_platform_has_own_scope_and_no_secret_refs`).

use std::sync::Arc;

use toml::{Table, Value};

use super::{MAX_PLATFORMS, Registry, RegistryEntry, RegistryInner, by_name};
use crate::config::Problem;
use crate::platform::definition::{self, Definition, ProblemReport};
use crate::platform::types::{Platform, PlatformName, PlatformSource};

/// Keys that a registered definition must not have. Its secrets are registered separately.
const SECRET_KEYS: [&str; 2] = ["secrets", "credentials"];

/// Reason why a registered platform cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameConflict {
    /// The file defines a platform of this name.
    #[error("{0} is defined in PLATFORMS_FILE")]
    File(PlatformName),
    /// One of its names belongs to another platform.
    #[error("the name {name} belongs to the platform {owner}")]
    Name {
        /// The name.
        name: PlatformName,
        /// Platform that owns the name.
        owner: PlatformName,
    },
    /// There are too many platforms.
    #[error("there may be at most {MAX_PLATFORMS} platforms beside the bundled ones")]
    TooMany,
}

/// Parses a name that may be given to a platform.
///
/// # Errors
/// Returns the reason, which continues a sentence that starts with the name.
pub fn platform_name(text: &str) -> Result<PlatformName, String> {
    definition::platform_name(text)
}

impl Registry {
    /// Compiles the definition registered as `name` with the grammar and presets of files.
    ///
    /// # Errors
    /// Returns all problems by key.
    pub fn compile_registered(
        &self,
        name: &PlatformName,
        mut table: Table,
    ) -> Result<Platform, Vec<Problem>> {
        let report = ProblemReport::new("");
        for key in SECRET_KEYS {
            if table.remove(key).is_some() {
                report.add(key, "cannot be registered: a reference belongs in PLATFORMS_FILE");
            }
        }
        if table.remove("session_scope").is_some_and(|scope| scope.as_str() != Some("own")) {
            report.add(
                "session_scope",
                "must be own: a registered platform touches only sessions of its own",
            );
        }
        let merged = self.inner.bundled.merged(name.as_str(), "", table, &report);
        let platform = merged.and_then(|mut table| {
            for key in SECRET_KEYS {
                table.remove(key);
            }
            table.insert("session_scope".to_owned(), Value::from("own"));
            let source = PlatformSource::Registered;
            definition::compile(
                Definition { key: String::new(), name: name.clone(), source, table, folder: None },
                &report,
            )
        });
        let mut problems = report.into_problems();
        problems.sort();
        platform.filter(|_| problems.is_empty()).ok_or(problems)
    }

    /// Checks that `platform` can be added, or can replace a bundled or registered one of its name.
    ///
    /// # Errors
    /// Returns the conflict.
    pub fn check_conflicts(&self, platform: &Platform) -> Result<(), NameConflict> {
        self.replaced_index(platform).map(drop)
    }

    /// Adds registered platforms in this order and applies `adjust` to every platform. Also returns
    /// the platforms that conflict.
    #[must_use]
    pub fn with_registered(
        &self,
        registered: impl IntoIterator<Item = Arc<Platform>>,
        mut adjust: impl FnMut(&Arc<Platform>) -> Arc<Platform>,
    ) -> (Self, Vec<(Arc<Platform>, NameConflict)>) {
        let (mut all, mut refused) = (self.clone(), Vec::new());
        for platform in registered {
            match all.replaced_index(&platform) {
                Ok(replaced_index) => all.insert_at(replaced_index, platform),
                Err(conflict) => refused.push((platform, conflict)),
            }
        }
        let entries = all.inner.entries.iter();
        let entries: Vec<_> = entries
            .map(|entry| RegistryEntry { platform: adjust(&entry.platform), ..entry.clone() })
            .collect();
        (all.with_entries(entries), refused)
    }

    /// Returns the index of the platform that `platform` replaces, or `None` if it is added at the
    /// end.
    fn replaced_index(&self, platform: &Platform) -> Result<Option<usize>, NameConflict> {
        let entries = &self.inner.entries;
        let replaced_index = entries.iter().position(|entry| entry.platform.name == platform.name);
        if replaced_index
            .and_then(|replaced_index| entries.get(replaced_index))
            .is_some_and(|own| own.platform.source == PlatformSource::File)
        {
            return Err(NameConflict::File(platform.name.clone()));
        }
        for name in std::iter::once(&platform.name).chain(&platform.aliases) {
            if let Some(owner) = self.get(name.as_str()).filter(|owner| owner.name != platform.name)
            {
                return Err(NameConflict::Name { name: name.clone(), owner: owner.name.clone() });
            }
        }
        let own = |entry: &&RegistryEntry| {
            entry.platform.source != PlatformSource::Bundled && entry.platform.name != platform.name
        };
        if entries.iter().filter(own).count() >= MAX_PLATFORMS {
            return Err(NameConflict::TooMany);
        }
        Ok(replaced_index)
    }

    fn insert_at(&mut self, replaced_index: Option<usize>, platform: Arc<Platform>) {
        let mut entries = self.inner.entries.clone();
        let entry = RegistryEntry { platform, own_secrets: false };
        match replaced_index.and_then(|replaced_index| entries.get_mut(replaced_index)) {
            Some(own) => *own = entry,
            None => entries.push(entry),
        }
        *self = self.with_entries(entries);
    }

    /// Creates a registry with other entries, whose names do not conflict.
    fn with_entries(&self, entries: Vec<RegistryEntry>) -> Self {
        let by_name = by_name(&entries, &ProblemReport::new(""));
        let RegistryInner { sessions, file, bundled, .. } = &*self.inner;
        let (sessions, file, bundled) = (Arc::clone(sessions), file.clone(), Arc::clone(bundled));
        Self { inner: Arc::new(RegistryInner { sessions, entries, by_name, file, bundled }) }
    }
}

#[cfg(test)]
mod tests;
