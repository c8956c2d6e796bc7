//! `ingress send-test`: one genuinely signed event of a configured platform, sent to a running ingress.
//!
//! Guarantee: what is sent has been judged by the code that judges real requests, so a refusal is the ingress's own (another
//! secret, another definition, Redis away). By default its type is one that is only logged: nothing but a row in the
//! ledger comes of it.

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

/// How long an answer may take; longer than ingress lets anybody wait.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(35);

const EXAMPLE: &str = "\
Examples:
  ingress send-test mux
  ingress send-test netflix --url http://10.0.0.7:8000 --type content_added
  ingress send-test acme --body event.json

The platform's definition and secret come from where the running ingress has them:
PLATFORMS_FILE and the environment. The body is made from the definition: id, type, time and
session stand where it looks for them; without --type, the type is one that is only logged.
A --type with an effect takes effect, on a session named tributary-test.

Exit status: 0 answered with 2xx, 1 with anything else or not at all, 2 usage or configuration.";

/// The arguments of `ingress send-test`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct SendTest {
    /// The platform, by its name or an alias
    #[arg(value_name = "PLATFORM")]
    platform: String,
    /// Where ingress is; http only
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The event's type [default: one that is only logged]
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Send this body as it is, signed
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Definitions [default: what PLATFORMS_FILE names]
    #[arg(long, value_name = "FILE")]
    platforms_file: Option<PathBuf>,
}

/// A request that is ready to be sent. Never shown: a header of it may be a secret.
pub struct SignedRequest {
    url: Url,
    headers: SignatureHeaders,
    body: Bytes,
    /// What it is, for the one who sends it.
    pub about: String,
}

/// What came back.
#[derive(Debug)]
pub struct SendTestResponse {
    /// Status and body, in one line.
    pub text: String,
    /// Whether the status is a 2xx.
    pub good: bool,
}

impl SendTest {
    /// Makes and signs the request.
    ///
    /// # Errors
    /// What of usage or configuration stands against it; never a secret.
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
                        &format_args!("{invalid}; give a --body that is an event"),
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

/// What is sent, in a line.
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
                "https is not spoken here; give ingress's own address, behind whatever ends TLS",
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

/// The signature, and the type where it is read from a header.
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
    /// Sends it, once.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(self) -> Result<SendTestResponse, reqwest::Error> {
        // The TLS stack that the whole system has; whoever was first chose the same.
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
