//! The platforms that come with the system, and the reserved one on which applications announce sessions.
//!
//! Guarantee: these are definitions like any user's, in the same grammar. Adding a provider is one more file here.

use toml::Table;

/// The preset of a definition that names none.
pub const DEFAULT_PRESET: &str = "generic";

/// Name and definition of every bundled platform, in the order in which they are listed.
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

/// The reserved platform `sessions`: in the queue like any other, but nothing a request can name.
pub const SESSIONS: &str = include_str!("../../platforms/sessions.toml");

/// The names of the bundled platforms.
pub fn names() -> impl Iterator<Item = &'static str> {
    DEFINITIONS.iter().map(|(name, _)| *name)
}

/// The text of the bundled definition `name`.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    DEFINITIONS.iter().find(|(one, _)| *one == name).map(|(_, text)| *text)
}

/// Reads a bundled definition.
///
/// # Errors
/// When it is not TOML, which the tests of the registry rule out.
pub(super) fn parse(text: &str) -> Result<Table, toml::de::Error> {
    text.parse()
}
