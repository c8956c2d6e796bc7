//! Runs `ingress send-test`: sends a signed event of a configured platform to a running ingress.
//!
//! # Guarantees
//!
//! - The event was verified and identified by the code that processes real requests. So a refusal
//!   comes from the running ingress: another secret, another definition, an unavailable Redis.
//!   (`sample_event_exists_for_every_bundled_type`)
//! - By default, the event's type is only logged, so it adds only a row to the ledger.
//!   (`sample_type_is_subscribed_and_only_logged`)

mod sample;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use reqwest::Url;
use shared::clock;
use shared::config::{Env, Problem};
use shared::event::{Millis, NewEvent};
use shared::platform::{Locator, Platform};
use shared::signature::{Keys, SignatureHeaders, sign, verify};

use crate::pipeline::identify::identify;
use sample::SampleEvent;

/// Timeout of the response. Longer than ingress lets a request wait.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(35);

const EXAMPLE: &str = "\
Examples:
  ingress send-test mux
  ingress send-test netflix --url http://10.0.0.7:8000 --type content_added
  ingress send-test acme --body event.json

Definition and secret come from PLATFORMS_FILE and the environment, as for the running ingress.
The body is built from the definition, with id, type, time and session at its pointers. Without
--type, the type is one that is only logged. A --type with an effect takes effect, on a session
named tributary-test.

Exit status: 0 answered with 2xx, 1 another status or no answer, 2 usage or configuration.";

/// Arguments of `ingress send-test`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct SendTest {
    /// The platform, by its name or an alias
    #[arg(value_name = "PLATFORM")]
    platform: String,
    /// Address of ingress; http only
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The event's type [default: one that is only logged]
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Send this body as it is, signed
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Definitions [default: the file in PLATFORMS_FILE]
    #[arg(long, value_name = "FILE")]
    platforms_file: Option<PathBuf>,
}

/// Signed request. Not printable, because its headers may hold a secret.
pub struct SignedRequest {
    url: Url,
    headers: SignatureHeaders,
    body: Bytes,
    /// Description of the event.
    pub about: String,
}

/// Response of ingress.
#[derive(Debug)]
pub struct SendTestResponse {
    /// Status and body, in one line.
    pub text: String,
    /// True if the status is a 2xx.
    pub good: bool,
}

impl SendTest {
    /// Builds and signs the request.
    ///
    /// # Errors
    /// Problems of usage or configuration, never a secret.
    pub fn prepare(self, env: &Env) -> Result<SignedRequest, Vec<Problem>> {
        self.prepare_at(env, clock::now_ms())
    }

    fn prepare_at(self, env: &Env, now: Millis) -> Result<SignedRequest, Vec<Problem>> {
        let one = |name: &str, reason: &dyn std::fmt::Display| vec![Problem::new(name, reason)];
        let base = base(&self.url).map_err(|reason| one("--url", &reason))?;
        let (platform, keys) =
            crate::tool_platform::load(&self.platform, self.platforms_file, env)?;
        let id = format!("test-{}", uuid::Uuid::new_v4().simple());
        let (kind, body) = match &self.body {
            Some(file) => {
                let body = std::fs::read(file);
                let body = body
                    .map_err(|error| one("--body", &format_args!("{}: {error}", file.display())))?;
                (self.event_type, Bytes::from(body))
            }
            None => {
                let made = SampleEvent { platform: &platform, id: &id, now }.make(self.event_type);
                let (kind, body) = made.map_err(|reason| one(platform.name.as_str(), &reason))?;
                (Some(kind), body)
            }
        };
        let headers = headers(&platform, &keys, kind.as_deref(), &id, &body, now);
        let headers = headers.map_err(|reason| one(platform.name.as_str(), &reason))?;
        let events = verify(&platform.scheme, &keys, &headers, &body, now)
            .map_err(|refusal| one(platform.name.as_str(), &refusal))
            .and_then(|verified| {
                identify(&platform, &verified, &body).map_err(|invalid| {
                    one(
                        platform.name.as_str(),
                        &format_args!("{invalid}; pass an event with --body"),
                    )
                })
            })?;
        let about = about(&platform, events.events());
        let url = base
            .join(&format!("api/v1/webhooks/{}", platform.name))
            .map_err(|error| one("--url", &error))?;
        Ok(SignedRequest { url, headers, body, about })
    }
}

/// Describes the events in one line.
fn about(platform: &Platform, events: &[NewEvent]) -> String {
    let each: Vec<String> =
        events.iter().map(|event| format!("{} ({})", event.event_id, event.event_type)).collect();
    match each.as_slice() {
        [one] => format!("{} event {one}", platform.name),
        several => {
            format!("{} batch of {} events: {}", platform.name, several.len(), several.join(", "))
        }
    }
}

fn base(text: &str) -> Result<Url, &'static str> {
    let mut url: Url = text.parse().map_err(|_| "must be of the form http://host[:port]")?;
    match url.scheme() {
        "http" if url.has_host() => {}
        "https" => {
            return Err(
                "https is not supported; use ingress's own http address, behind the proxy that \
                 terminates TLS",
            );
        }
        _ => return Err("must be of the form http://host[:port]"),
    }
    if !url.path().ends_with('/') {
        let folder = format!("{}/", url.path());
        url.set_path(&folder);
    }
    Ok(url)
}

/// Builds the signature headers, and the header of the type if the definition reads one.
fn headers(
    platform: &Platform,
    keys: &Keys,
    kind: Option<&str>,
    id: &str,
    body: &[u8],
    now: Millis,
) -> Result<SignatureHeaders, String> {
    let mut headers =
        sign(&platform.scheme, keys, body, id, now).map_err(|reason| reason.to_string())?;
    let in_header = platform.event.kind.iter().find_map(|locator| match locator {
        Locator::Header(name) => Some(name),
        Locator::Body(_) => None,
    });
    if let (Some(name), Some(kind)) = (in_header, kind) {
        headers.retain(|(known, _)| known != name);
        headers.push((name.clone(), kind.to_owned()));
    }
    Ok(headers)
}

impl SignedRequest {
    /// Sends the request once.
    ///
    /// # Errors
    /// The reason why there is no response.
    pub async fn send(self) -> Result<SendTestResponse, reqwest::Error> {
        // All programs use this TLS provider. It may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(RESPONSE_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tributary-send-test/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut request =
            client.post(self.url).header("content-type", "application/json").body(self.body);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok(SendTestResponse {
            text: format!("{} {}", status.as_u16(), text.trim_end()),
            good: status.is_success(),
        })
    }
}

#[cfg(test)]
mod tests;
