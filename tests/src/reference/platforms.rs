//! Sections of `docs/reference/platforms.md`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::platform::registry::Registry;
use shared::platform::{
    Effect, InvalidRequestPolicy, Locator, MissingSession, Platform, Pointer, SessionScope,
    bundled as definitions,
};
use shared::signature::Scheme;

use super::markdown::{code, codes, list, paragraph, table};
use super::sections::Section;

pub(super) const SECTIONS: &[Section] =
    &[("signatures", signatures), ("places", places), ("effects", effects), ("terms", terms)];

/// Cell without a value.
const NONE: &str = "–";

/// Bundled platforms, in the order of listings.
pub(super) fn bundled() -> Vec<Arc<Platform>> {
    let registry = Registry::load(None).expect("bundled platforms");
    let named = definitions::names().map(|name| registry.get(name).map(Arc::clone));
    named.map(|platform| platform.expect("a bundled platform")).collect()
}

/// Name of `platform` with its aliases.
pub(super) fn names(platform: &Platform) -> String {
    let name = code(&platform.name);
    match platform.aliases.as_slice() {
        [] => name,
        aliases => format!("{name}, alias {}", codes(aliases, ", ")),
    }
}

fn signatures() -> String {
    let row = |platform: Arc<Platform>| {
        let (headers, form, tolerance) = match &platform.scheme {
            Scheme::Hmac(spec) => {
                let form =
                    if spec.prefix.is_empty() { NONE.to_owned() } else { code(&spec.prefix) };
                (spec.headers.clone(), form, spec.tolerance)
            }
            Scheme::Pairs(spec) => {
                let form = format!("`{}=…,{}=…`", spec.timestamp_key, spec.signature_key);
                (spec.headers.clone(), form, spec.tolerance)
            }
            Scheme::StandardWebhooks(spec) => {
                let headers = spec.headers.iter().map(|one| one.signature.clone()).collect();
                (headers, NONE.to_owned(), Some(spec.tolerance))
            }
            Scheme::LivekitJwt(spec) => (spec.headers.clone(), NONE.to_owned(), Some(spec.leeway)),
            Scheme::SharedSecret(spec) => (spec.headers.clone(), NONE.to_owned(), None),
        };
        [
            code(&platform.name),
            scheme(&platform.scheme).to_owned(),
            codes(headers, ", "),
            form,
            tolerance.map_or_else(|| NONE.to_owned(), duration),
        ]
    };
    let rows = bundled().into_iter().map(row).collect();
    let table = table(["platform", "scheme", "header", "form", "tolerance"], rows);
    format!("{table}\n{}", paragraph(&aliases()))
}

/// Sentence about each platform with further names.
fn aliases() -> String {
    let named = bundled().into_iter().filter(|platform| !platform.aliases.is_empty());
    let sentence = |platform: Arc<Platform>| {
        format!("{} is also {}.", code(&platform.name), codes(&platform.aliases, ", "))
    };
    named.map(sentence).collect::<Vec<_>>().join(" ")
}

const fn scheme(scheme: &Scheme) -> &'static str {
    match scheme {
        Scheme::Hmac(_) => "`hmac`",
        Scheme::Pairs(_) => "`pairs`",
        Scheme::StandardWebhooks(_) => "`standard-webhooks`",
        Scheme::LivekitJwt(_) => "`livekit-jwt`",
        Scheme::SharedSecret(_) => "`shared-secret`",
    }
}

/// A duration in whole minutes, if it is one of several minutes, else in seconds.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 60 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn places() -> String {
    list(bundled().into_iter().map(|platform| {
        let event = &platform.event;
        let mut parts = vec![if event.id.is_empty() {
            "no id".to_owned()
        } else {
            format!("id {}", locators(&event.id))
        }];
        parts.push(format!("type {}", locators(&event.kind)));
        for (title, places) in [("time", &event.time), ("delivery id", &event.delivery_id)] {
            if !places.is_empty() {
                parts.push(format!("{title} {}", locators(places)));
            }
        }
        let batch: Vec<Pointer> = event.batch.iter().cloned().collect();
        for (title, places) in [
            ("session", &event.session),
            ("live stream id", &event.live_stream_id),
            ("platform", &event.platform),
            ("list of events", &batch),
            ("not hashed:", &event.ignore),
        ] {
            if !places.is_empty() {
                parts.push(format!("{title} {}", codes(places, ", else ")));
            }
        }
        if event.repeatable {
            parts.push("`repeatable`".to_owned());
        }
        format!("{}: {}.", code(&platform.name), parts.join("; "))
    }))
}

fn locators(locators: &[Locator]) -> String {
    let locator = |one: &Locator| match one {
        Locator::Body(pointer) => code(pointer),
        Locator::Header(name) => format!("header {}", code(name)),
    };
    locators.iter().map(locator).collect::<Vec<_>>().join(", else ")
}

fn effects() -> String {
    let mut rows = Vec::new();
    let mut without = Vec::new();
    for platform in bundled() {
        // Types by effect, both in alphabetical order.
        let mut types = BTreeMap::<String, Vec<&str>>::new();
        for (kind, spec) in &platform.effects {
            if let Some(effect) = effect(&spec.effect) {
                types.entry(effect).or_default().push(kind);
            }
        }
        if types.is_empty() {
            without.push(code(&platform.name));
        }
        for (effect, mut kinds) in types {
            kinds.sort_unstable();
            rows.push([code(&platform.name), codes(kinds, ", "), effect]);
        }
    }
    let logged = format!("All types of {} are logged, and all other types.", without.join(", "));
    format!("{}\n{}", table(["platform", "type", "effect"], rows), paragraph(&logged))
}

/// Description of an effect; `None` if it only logs.
fn effect(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::SessionStatus { status, .. } => format!("session {}", code(status)),
        Effect::SessionViewers { .. } => "viewers of the session".to_owned(),
        Effect::Recording { state, .. } => format!("recording {}", code(state)),
        Effect::Content { state, .. } => format!("content {}", code(state)),
        Effect::Job { status, .. } => format!("job {}", code(status)),
        Effect::Chat { .. } => "chat message".to_owned(),
        Effect::SessionAnnounce => "announcement".to_owned(),
        Effect::Log => return None,
    })
}

fn terms() -> String {
    let row = |platform: Arc<Platform>| {
        let missing = match platform.missing_session {
            MissingSession::Create => "`create`",
            MissingSession::Retry => "`retry`",
        };
        let scope = match platform.session_scope {
            SessionScope::Own => "`own`",
            SessionScope::Shared => "`shared`",
        };
        let invalid = match platform.invalid {
            InvalidRequestPolicy::Keep => "`keep`",
            InvalidRequestPolicy::Refuse => "`refuse`",
        };
        [
            code(&platform.name),
            platform.rate_limit.per_minute.map_or_else(|| NONE.to_owned(), |max| max.to_string()),
            missing.to_owned(),
            scope.to_owned(),
            platform.ack_status.to_string(),
            platform.busy_status.map_or_else(|| NONE.to_owned(), |status| status.to_string()),
            invalid.to_owned(),
        ]
    };
    let heads =
        ["platform", "rate limit", "missing session", "scope", "accepted", "busy", "invalid"];
    table(heads, bundled().into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_row_names_header_form_and_tolerance() {
        let text = signatures();
        for row in [
            "| `realcast` | `hmac` | `x-realcast-signature` | `sha256=` | – |\n",
            "| `mux` | `pairs` | `mux-signature`, `provider-signature` | `t=…,v1=…` | 5 min |\n",
            "| `livekit` | `livekit-jwt` | `authorization` | – | 60 s |\n",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }

    #[test]
    fn places_name_headers_and_alternatives() {
        let text = places();
        assert!(text.contains("- `github`: no id; type header `x-github-event`;"), "{text}");
        assert!(text.contains("session `/liveInput`, else\n  `/uid`."), "{text}");
    }

    #[test]
    fn effects_are_sorted_and_without_logged_types() {
        let text = effects();
        let rows = "| `zoom` | `meeting.ended`, `webinar.ended` | session `ended` |\n\
                    | `zoom` | `meeting.started`, `webinar.started` | session `live` |\n";
        assert!(text.contains(rows), "{text}");
        assert!(!text.contains("video.live_stream.created"), "{text}");
    }

    #[test]
    fn terms_hold_statuses_and_policy() {
        let text = terms();
        assert!(
            text.contains("| `zoom` | 6000 | `create` | `own` | 200 | 503 | `keep` |"),
            "{text}"
        );
    }
}
