//! Resolves references to secrets. Only ingress does this.
//!
//! # Guarantees
//!
//! - A platform that the operator named has all of its secrets, or the start fails with the missing
//!   ones (`platform_in_the_file_requires_its_secrets`).
//! - A bundled platform that the operator did not name is not configured if its variables are not
//!   set (`bundled_platform_is_enabled_by_its_variable_alone`).
//! - No problem and no warning holds a secret (`secret_debug_output_is_redacted`).
//!
//! # Design
//!
//! White space or quotation marks may have been pasted around a secret. It verifies with and
//! without them, since the sender may have either form. A warning names the secret.

use super::types::{CredentialRef, Handshake, Platform, SecretRef, SecretRefs};
use crate::config::{self, Env, Problem, SecretText};
use crate::signature::{Credential, Keys, Secret, SecretEncoding};

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

/// References that must resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretRequirement {
    /// All of them. The operator named them.
    All,
    /// At least one. The operator named the platform, but the references are bundled.
    Any,
    /// None.
    Optional,
}

/// Resolves the keys of `platform`. Returns `Ok(None)` if there are none and none are required.
pub(super) fn resolve(
    platform: &Platform,
    requirement: SecretRequirement,
    env: &Env,
    key: &str,
) -> Result<Option<Keys>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    let mut lookup = SecretLookup { env, key, problems: &mut problems, missing: &mut missing };
    let keys = match &platform.secrets {
        SecretRefs::Secrets(list) => {
            Keys::Secrets(list.iter().flat_map(|one| lookup.secret(platform, one)).collect())
        }
        SecretRefs::Credentials(list) => Keys::Credentials(
            list.iter().flat_map(|one| lookup.credential(platform, one)).collect(),
        ),
    };
    if requirement == SecretRequirement::All
        || (requirement == SecretRequirement::Any && keys.is_empty() && problems.is_empty())
    {
        problems
            .extend(missing.iter().map(|one| Problem::new(key, format_args!("{one} is not set"))));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Some(keys).filter(|keys| !keys.is_empty()))
}

/// Resolves the token of `platform`'s handshake. Returns `Ok(None)` if the handshake has none.
pub(super) fn verify_token(
    platform: &Platform,
    env: &Env,
    key: &str,
) -> Result<Option<Secret>, Vec<Problem>> {
    let Some(Handshake::Meta { verify_token }) = &platform.handshake else { return Ok(None) };
    let (mut problems, mut missing) = (Vec::new(), Vec::new());
    let mut lookup = SecretLookup { env, key, problems: &mut problems, missing: &mut missing };
    let token = lookup.text(verify_token).and_then(|text| {
        let Some(text) = text else {
            lookup.problem(format!("{verify_token} is not set"));
            return None;
        };
        let decoded = Secret::decode(text.clean(), SecretEncoding::Utf8);
        decoded.map_err(|reason| lookup.problem(format!("{verify_token} {reason}"))).ok()
    });
    if problems.is_empty() { Ok(token) } else { Err(problems) }
}

struct SecretLookup<'a> {
    env: &'a Env,
    key: &'a str,
    problems: &'a mut Vec<Problem>,
    missing: &'a mut Vec<SecretRef>,
}

impl SecretLookup<'_> {
    fn secret(&mut self, platform: &Platform, reference: &SecretRef) -> Vec<Secret> {
        match self.text(reference) {
            Some(Some(text)) => self.decode(platform, reference, &text),
            Some(None) => {
                self.missing.push(reference.clone());
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn credential(&mut self, platform: &Platform, pair: &CredentialRef) -> Vec<Credential> {
        match (self.text(&pair.key), self.text(&pair.secret)) {
            (Some(Some(key)), Some(Some(secret))) => {
                let secrets = self.decode(platform, &pair.secret, &secret);
                secrets.iter().map(|secret| Credential::new(key.clean(), secret)).collect()
            }
            (Some(None), Some(None)) => {
                self.missing.extend([pair.key.clone(), pair.secret.clone()]);
                Vec::new()
            }
            (Some(Some(_)), Some(None)) => self.report_half_pair(&pair.key, &pair.secret),
            (Some(None), Some(Some(_))) => self.report_half_pair(&pair.secret, &pair.key),
            (None, _) | (_, None) => Vec::new(),
        }
    }

    fn report_half_pair(&mut self, present: &SecretRef, missing: &SecretRef) -> Vec<Credential> {
        self.problem(format!("{present} is set, but {missing} is not"));
        Vec::new()
    }

    fn decode(
        &mut self,
        platform: &Platform,
        reference: &SecretRef,
        text: &SecretText,
    ) -> Vec<Secret> {
        let secrets = platform.scheme.secrets(text);
        secrets.map_err(|reason| self.problem(format!("{reference} {reason}"))).unwrap_or_default()
    }

    /// Returns `None` after a problem, and `Some(None)` if a variable is not set.
    fn text(&mut self, reference: &SecretRef) -> Option<Option<SecretText>> {
        match reference {
            SecretRef::Env(name) => {
                let found = self
                    .env
                    .lookup_text(name)
                    .map_err(|problem| self.problems.push(problem))
                    .ok()?;
                Some(found.map(|(text, from)| self.warn_surroundings(text, &from)))
            }
            SecretRef::File(path) => {
                let read = config::read_file(path)
                    .map_err(|reason| self.problem(format!("{reference} {reason}")));
                Some(Some(self.warn_surroundings(
                    SecretText::new(read.ok()?),
                    &format!("{}: {reference}", self.key),
                )))
            }
        }
    }

    /// Warns if white space or quotation marks surround `text`, which was read from `from`.
    fn warn_surroundings(&self, text: SecretText, from: &str) -> SecretText {
        if let Some(remark) = text.remark().filter(|_| !text.is_empty()) {
            self.env
                .warn(from, format_args!("{remark}; requests are verified with and without it"));
        }
        text
    }

    fn problem(&mut self, reason: String) {
        self.problems.push(Problem::new(self.key, reason));
    }
}
