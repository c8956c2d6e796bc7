//! Holds the bundled platform definitions.
//!
//! # Guarantees
//!
//! - Bundled definitions use the same format as the operator's and pass the same checks
//!   (`bundled_platforms_load_without_a_file`).
//!
//! # Design
//!
//! A new provider needs one TOML file and one line in this file.

use toml::Table;

/// Preset of a definition that names none.
pub const DEFAULT_PRESET: &str = "generic";

/// Name and definition of every bundled platform, in the order of listings.
pub const DEFINITIONS: &[(&str, &str)] = &[
    ("mux", include_str!("../../platforms/mux.toml")),
    ("livekit", include_str!("../../platforms/livekit.toml")),
    ("netflix", include_str!("../../platforms/netflix.toml")),
    ("generic", include_str!("../../platforms/generic.toml")),
    ("realcast", include_str!("../../platforms/realcast.toml")),
    ("streamgank", include_str!("../../platforms/streamgank.toml")),
    ("twitch", include_str!("../../platforms/twitch.toml")),
    ("standard-webhooks", include_str!("../../platforms/standard-webhooks.toml")),
    ("cloudflare-stream", include_str!("../../platforms/cloudflare-stream.toml")),
    ("cloudflare-live", include_str!("../../platforms/cloudflare-live.toml")),
    ("livepeer", include_str!("../../platforms/livepeer.toml")),
    ("zoom", include_str!("../../platforms/zoom.toml")),
    ("stripe", include_str!("../../platforms/stripe.toml")),
    ("github", include_str!("../../platforms/github.toml")),
    ("slack", include_str!("../../platforms/slack.toml")),
];

/// Definition of the reserved platform `sessions`. It has a queue like any other, but no request
/// can name it.
pub const SESSIONS: &str = include_str!("../../platforms/sessions.toml");

/// Names of the bundled platforms.
pub fn names() -> impl Iterator<Item = &'static str> {
    DEFINITIONS.iter().map(|(name, _)| *name)
}

/// Returns the text of the bundled definition `name`.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    DEFINITIONS.iter().find(|(one, _)| *one == name).map(|(_, text)| *text)
}

/// Parses a bundled definition.
///
/// # Errors
/// Returns an error if the text is not TOML. The tests of the registry rule that out.
pub(super) fn parse(text: &str) -> Result<Table, toml::de::Error> {
    text.parse()
}
