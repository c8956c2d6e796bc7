//! Reads the configuration of trace export.
//!
//! # Guarantees
//!
//! - An unusable value is a problem at start-up
//!   (`unusable_trace_variables_are_problems_without_values`).
//! - Endpoint and headers are never shown, since they may hold credentials
//!   (`headers_are_decoded_and_never_shown`).

use std::fmt;
use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::config::variables::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG,
};
use crate::config::{Env, percent_encoding_hint};

/// `OTEL_EXPORTER_OTLP_ENDPOINT` and the related variables, as OpenTelemetry defines them.
#[derive(Clone)]
pub struct TraceConfig {
    /// URL for traces: the endpoint and `/v1/traces`.
    pub(super) url: Url,
    /// Headers of every request.
    pub(super) headers: HeaderMap,
    /// Timeout of a request.
    pub(super) timeout: Duration,
    /// Selects the traces that begin here and are kept.
    pub(super) sampler: Sampler,
    /// `OTEL_SERVICE_NAME`.
    pub(super) service: Option<String>,
}

impl fmt::Debug for TraceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceConfig").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

impl TraceConfig {
    /// Reads the variables and records problems in `env`. Returns `None` if no endpoint is set.
    #[must_use]
    pub fn read(env: &Env) -> Option<Self> {
        let endpoint = env.opt(OTEL_EXPORTER_OTLP_ENDPOINT.name)?;
        if env
            .opt(OTEL_EXPORTER_OTLP_PROTOCOL.name)
            .is_some_and(|protocol| protocol.trim() != "http/protobuf")
        {
            env.problem(
                OTEL_EXPORTER_OTLP_PROTOCOL.name,
                "must be http/protobuf, the only supported protocol",
            );
        }
        let headers = headers(&env.opt(OTEL_EXPORTER_OTLP_HEADERS.name).unwrap_or_default());
        if headers.is_none() {
            env.problem(
                OTEL_EXPORTER_OTLP_HEADERS.name,
                "must be name=value, several separated by commas",
            );
        }
        let url = traces(endpoint.trim());
        if let Some(hint) = percent_encoding_hint(endpoint.trim()) {
            env.problem(OTEL_EXPORTER_OTLP_ENDPOINT.name, hint);
        } else if url.is_none() {
            env.problem(
                OTEL_EXPORTER_OTLP_ENDPOINT.name,
                "must be http://HOST:PORT or https://HOST:PORT of an OTLP collector \
                 (HTTP, usually port 4318)",
            );
        }
        Some(Self {
            sampler: sampler(env),
            timeout: env.span(&OTEL_EXPORTER_OTLP_TIMEOUT),
            service: env.opt(OTEL_SERVICE_NAME.name),
            url: url?,
            headers: headers?,
        })
    }
}

/// URL at which an OTLP endpoint accepts traces.
fn traces(endpoint: &str) -> Option<Url> {
    let mut url = Url::parse(endpoint).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.query().is_none()
        && url.fragment().is_none();
    url.host_str().filter(|host| plain && !host.is_empty())?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

/// Parses `name=value,…` with percent-encoded values.
fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        headers.append(HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value);
    }
    Some(headers)
}

fn sampler(env: &Env) -> Sampler {
    let name = env.text_or_default(&OTEL_TRACES_SAMPLER);
    let ratio = env.fraction(&OTEL_TRACES_SAMPLER_ARG);
    let (based, root) = match name.trim().strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name.trim()),
    };
    let root = match root {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio),
        _ => {
            env.problem(
                OTEL_TRACES_SAMPLER.name,
                "must be always_on, always_off or traceidratio, or one of them after parentbased_",
            );
            Sampler::AlwaysOff
        }
    };
    if based { Sampler::ParentBased(Box::new(root)) } else { root }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    fn read(pairs: &[(&str, &str)]) -> Result<Option<TraceConfig>, Vec<String>> {
        let env = Env::from_pairs(pairs.iter().copied());
        let config = TraceConfig::read(&env);
        env.finish()
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(config)
    }

    #[test]
    fn trace_config_without_an_endpoint_is_none() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[(ENDPOINT, ""), ("OTEL_TRACES_SAMPLER", "nonsense")]).unwrap().is_none());
    }

    #[test]
    fn traces_have_their_path_under_the_endpoint() {
        for (endpoint, traces) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://example.com/otlp/", "https://example.com/otlp/v1/traces"),
        ] {
            assert_eq!(read(&[(ENDPOINT, endpoint)]).unwrap().unwrap().url.as_str(), traces);
        }
    }

    #[test]
    fn unusable_trace_variables_are_problems_without_values() {
        for wrong in [
            "collector:4318",
            "hunter2",
            "ftp://hunter2@host",
            "http://",
            "http://host/?token=hunter2",
        ] {
            let problems = read(&[(ENDPOINT, wrong)]).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with(ENDPOINT), "{problems:?}");
            assert!(!problems[0].contains("hunter2"));
        }
        let problems = read(&[
            (ENDPOINT, "http://host"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(!problems.concat().contains("hunter2"));
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        let set = [
            (ENDPOINT, "http://me:hunter2@host"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key = hunter2%3D, b=1"),
        ];
        let config = read(&set).unwrap().unwrap();
        assert_eq!(config.headers["x-key"], "hunter2=");
        assert_eq!(config.headers["b"], "1");
        assert!(!format!("{config:?} {:?}", config.headers).contains("hunter2"));
    }

    #[test]
    fn samplers_have_their_opentelemetry_names() {
        let sampler = |name: &str| {
            let set = [
                (ENDPOINT, "http://host"),
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ];
            format!("{:?}", read(&set).unwrap().unwrap().sampler)
        };
        assert_eq!(sampler("always_off"), "AlwaysOff");
        assert_eq!(sampler("parentbased_always_on"), "ParentBased(AlwaysOn)");
        assert_eq!(sampler("parentbased_traceidratio"), "ParentBased(TraceIdRatioBased(0.25))");
    }
}
