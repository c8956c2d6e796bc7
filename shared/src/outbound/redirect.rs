//! Extracts the target of a redirect for display.

use reqwest::header::{HeaderMap, LOCATION};
use url::{Position, Url};

/// Longest displayed target, in characters.
const MAX_SHOWN: usize = 200;

/// Target of a redirect, without its query and without secret parts of the destination's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Scheme, host and path. `…` replaces path segments that the destination's URL also has.
    pub target: String,
    /// Host, for logs.
    pub host: String,
}

impl Redirect {
    /// Reads the target of a response of `from`. `None`: it is not a redirect, or names no target.
    pub(super) fn read(status: u16, headers: &HeaderMap, from: &Url) -> Option<Self> {
        if !(300..=399).contains(&status) {
            return None;
        }
        let location = headers.get(LOCATION)?.to_str().ok()?;
        let url = from.join(location.trim()).ok()?;
        let host = url.host_str()?.to_owned();
        // The path of a chat webhook is a secret, and most redirects repeat it.
        let own: Vec<&str> = from.path_segments().into_iter().flatten().collect();
        let hidden = |segment: &str| !segment.is_empty() && own.contains(&segment);
        let path: Vec<&str> = url
            .path_segments()
            .into_iter()
            .flatten()
            .map(|segment| if hidden(segment) { "…" } else { segment })
            .collect();
        let place = &url[Position::BeforeHost..Position::AfterPort];
        let target = format!("{}://{place}/{}", url.scheme(), path.join("/"));
        Some(Self { target: target.chars().take(MAX_SHOWN).collect(), host })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(location: &'static str) -> Option<Redirect> {
        let headers = [(LOCATION, location.parse().unwrap())].into_iter().collect();
        Redirect::read(
            302,
            &headers,
            &"https://a.example/services/T0/s3cret?key=s3cret".parse().unwrap(),
        )
    }

    #[test]
    fn redirect_target_is_shown_without_secrets() {
        for (location, target) in [
            ("https://b.example:8443/login?next=s3cret#x", "https://b.example:8443/login"),
            ("https://user:s3cret@b.example/", "https://b.example/"),
            ("/services/T0/s3cret/", "https://a.example/…/…/…/"),
            ("//b.example/v2/s3cret", "https://b.example/v2/…"),
        ] {
            assert_eq!(read(location).unwrap().target, target);
        }
        assert_eq!(read("https://b.example/x").unwrap().host, "b.example");
        assert_eq!(read("mailto:a"), None);
    }
}
