//! Sections of `docs/reference/configuration.md`, and `env.local.example`.

use shared::config::{env_file as variables_of_env_file, reference_markdown};
use shared::platform::{Platform, SecretRef, SecretRefs};

use super::markdown::{code, codes, table};
use super::platforms::{bundled, names};
use super::sections::Section;

pub(super) const SECTIONS: &[Section] =
    &[("variables", reference_markdown), ("platform-secrets", platform_secrets)];

/// Path of the example of `env.local`.
pub(super) const ENV_FILE: &str = "env.local.example";

const ENV_FILE_HEAD: &str = "\
# Generated from the code: cargo run -p tests --bin reference -- --write
#
# Copy this file to env.local, which is never committed. Compose and deploy/quickstart read it. For
# the binaries, export what it holds:
#   set -a; . ./env.local; set +a
# Lines are NAME=value. NAME_FILE=/run/secrets/name takes the value from a file.
# docs/reference/configuration.md describes all variables.

# A bundled platform is switched on by its secret.
";

fn platform_secrets() -> String {
    let rows = bundled().into_iter().filter(|platform| !platform.secrets.is_empty());
    let rows = rows.map(|platform| {
        let variables = match &platform.secrets {
            SecretRefs::Secrets(list) => codes(list.iter().map(variable), " or "),
            SecretRefs::Credentials(list) => {
                let pair = |one: &shared::platform::CredentialRef| {
                    let (key, secret) = (variable(&one.key), variable(&one.secret));
                    format!("{} and {}", code(key), code(secret))
                };
                list.iter().map(pair).collect::<Vec<_>>().join(" or ")
            }
        };
        [names(&platform), variables]
    });
    table(["platform", "variable"], rows.collect())
}

/// Name of the variable that a bundled definition refers to.
fn variable(reference: &SecretRef) -> &str {
    match reference {
        SecretRef::Env(name) => name,
        SecretRef::File(path) => panic!("a bundled platform refers to the file {path}"),
    }
}

/// Content of `env.local.example`.
pub(super) fn env_file() -> String {
    let mut text = String::from(ENV_FILE_HEAD);
    for platform in bundled() {
        text.push_str(&secret_lines(&platform));
    }
    text.push_str(&variables_of_env_file());
    text
}

/// Line of each variable of `platform`. Alternatives of the first are comments.
fn secret_lines(platform: &Platform) -> String {
    match &platform.secrets {
        SecretRefs::Secrets(list) => list
            .iter()
            .enumerate()
            .map(|(at, one)| format!("{}{}=\n", if at == 0 { "" } else { "#" }, variable(one)))
            .collect(),
        SecretRefs::Credentials(list) => list
            .iter()
            .map(|one| format!("{}=\n{}=\n", variable(&one.key), variable(&one.secret)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_file_sets_only_empty_secrets() {
        let text = env_file();
        let set: Vec<&str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(set.contains(&"STREAMING_WEBHOOK_SIGNING_SECRET="), "{text}");
        assert!(set.contains(&"LIVEKIT_API_SECRET="), "{text}");
        assert!(set.iter().all(|line| line.ends_with('=')), "{set:?}");
        assert!(text.contains("\n#WEBHOOK_SECRET=\n") && text.contains("\n#ADMIN_TOKEN=\n"));
    }

    #[test]
    fn platform_secrets_name_alternatives_and_pairs() {
        let text = platform_secrets();
        for row in [
            "| `mux`, alias `streaming` | `STREAMING_WEBHOOK_SIGNING_SECRET` |",
            "| `livekit` | `LIVEKIT_API_KEY` and `LIVEKIT_API_SECRET` |",
            "| `realcast` | `REALCAST_WEBHOOK_SECRET` or `WEBHOOK_SECRET` |",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }
}
