//! The one platform that a subcommand is about, with what it is verified with.

use std::path::PathBuf;
use std::sync::Arc;

use shared::config::{Env, Problem};
use shared::platform::Platform;
use shared::platform::registry::Registry;
use shared::signature::Keys;

/// Finds `name` (or an alias) in `file`, else in what `PLATFORMS_FILE` names, and resolves its secrets; those of other
/// platforms need not be there.
///
/// # Errors
/// Everything that stands against it; never a secret.
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
            format_args!("is no platform; defined are: {}", known.join(" ")),
        )]);
    };
    let keys = registry.keys(platform, env)?.ok_or_else(|| {
        vec![Problem::new(
            name,
            "is not configured: none of the variables that its secrets come from is set",
        )]
    })?;
    Ok((Arc::clone(platform), keys))
}
