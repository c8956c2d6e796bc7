//! Loads the platform of a subcommand, with its keys.

use std::path::PathBuf;
use std::sync::Arc;

use shared::config::{Env, Problem};
use shared::platform::Platform;
use shared::platform::registry::Registry;
use shared::signature::Keys;

/// Finds the platform called `name`, by name or alias, in `file` or else in `PLATFORMS_FILE`, and
/// resolves its secrets. Secrets of other platforms may be missing.
///
/// # Errors
/// All problems, never a secret.
pub(crate) fn load(
    name: &str,
    file: Option<PathBuf>,
    env: &Env,
) -> Result<(Arc<Platform>, Keys), Vec<Problem>> {
    let file = match file {
        Some(file) => Some(file),
        None => env.lookup("PLATFORMS_FILE").map_err(|problem| vec![problem])?.map(PathBuf::from),
    };
    let registry = Registry::load(file.as_deref())?;
    let Some(platform) = registry.get(name) else {
        let mut known: Vec<&str> =
            registry.iter().skip(1).map(|platform| platform.name.as_str()).collect();
        known.sort_unstable();
        return Err(vec![Problem::new(
            name,
            format_args!("unknown platform (defined: {})", known.join(" ")),
        )]);
    };
    let keys = registry.keys(platform, env)?.ok_or_else(|| {
        vec![Problem::new(
            name,
            "not configured: set one of the variables that its secrets come from",
        )]
    })?;
    Ok((Arc::clone(platform), keys))
}
