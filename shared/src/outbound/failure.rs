//! Names the failure of a request that got no response.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use url::Url;

use super::client::CONNECT_TIMEOUT;
use super::delivery::{AttemptOutcome, TransportError};
use super::resolver::{BlockedAddressError, NameNotFoundError};

/// Classifies the `error` of a request to `url` with this `timeout`.
pub(super) fn classify_error(
    error: &reqwest::Error,
    url: &Url,
    timeout: Duration,
) -> AttemptOutcome {
    let host = url.host_str().unwrap_or_default();
    let (kind, reason) = if find_cause::<BlockedAddressError>(error).is_some() {
        (TransportError::Blocked, BlockedAddressError.to_string())
    } else if find_cause::<NameNotFoundError>(error).is_some() {
        (TransportError::NotFound, format!("getaddrinfo ENOTFOUND {host}"))
    } else if error.is_timeout() {
        (TransportError::TimedOut, describe_timeout(error, timeout))
    } else if let Some(tls) = find_cause::<rustls::Error>(error) {
        classify_tls_error(tls, host)
    } else if let Some(http) = find_cause::<hyper::Error>(error).filter(|error| error.is_parse()) {
        (TransportError::Protocol, describe_parse_error(http))
    } else if find_cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message) {
        (
            TransportError::Refused,
            "ECONNRESET the connection was closed without an answer".to_owned(),
        )
    } else {
        match find_cause::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                (TransportError::Refused, "ECONNREFUSED".to_owned())
            }
            Some(io::ErrorKind::TimedOut) => {
                (TransportError::TimedOut, describe_timeout(error, timeout))
            }
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                (TransportError::Refused, "EHOSTUNREACH".to_owned())
            }
            _ => (TransportError::Refused, "ECONNRESET".to_owned()),
        }
    };
    AttemptOutcome::Failed { kind, reason }
}

fn describe_timeout(error: &reqwest::Error, timeout: Duration) -> String {
    if error.is_connect() {
        format!("connect timeout of {}ms exceeded", CONNECT_TIMEOUT.as_millis())
    } else {
        format!("timeout of {}ms exceeded", timeout.as_millis())
    }
}

/// Describes a response that is not an HTTP message.
fn describe_parse_error(error: &hyper::Error) -> String {
    let text = error.to_string();
    if text.contains("HTTP version") {
        "EPROTO the answer is not HTTP/1.1 (an HTTP/2-only receiver?)".to_owned()
    } else if text.contains("too large") {
        "EPROTO the answer has too many or too large headers".to_owned()
    } else {
        format!("EPROTO the answer cannot be read: {text}")
    }
}

fn classify_tls_error(error: &rustls::Error, host: &str) -> (TransportError, String) {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    let text = match error {
        AlertReceived(AlertDescription::NoApplicationProtocol) => {
            let text = "EPROTO the receiver refuses HTTP/1.1 (an HTTP/2-only receiver?)";
            return (TransportError::Protocol, text.to_owned());
        }
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the certificate has expired".to_owned()
        }
        InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the certificate is not valid yet".to_owned(),
        InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("the certificate is not valid for {host}")
        }
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the certificate's issuer is unknown".to_owned()
        }
        InvalidCertificate(CertificateError::Revoked) => "the certificate is revoked".to_owned(),
        InvalidMessage(_) => format!("the receiver does not speak TLS: {error}"),
        AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
            format!("no TLS version or cipher in common: {error}")
        }
        other => other.to_string(),
    };
    (TransportError::Certificate, format!("ECERT {text}"))
}

/// Finds the first cause of this type.
fn find_cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(one) = next {
        if let Some(found) = one.downcast_ref::<E>() {
            return Some(found);
        }
        // The source of an `io::Error` is not its inner error, but the source of that.
        if let Some(wrapped) = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find_inner_cause::<E>(wrapped)
        {
            return Some(found);
        }
        next = one.source();
    }
    None
}

fn find_inner_cause<'e, E: Error + 'static>(
    error: &'e (dyn Error + Send + Sync + 'static),
) -> Option<&'e E> {
    let error: &'e (dyn Error + 'static) = error;
    find_cause::<E>(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_errors_are_told_apart_by_cause() {
        let of =
            |error| classify_tls_error(&rustls::Error::InvalidCertificate(error), "hook.example").1;
        for (error, reason) in [
            (CertificateError::Expired, "ECERT the certificate has expired"),
            (CertificateError::NotValidYet, "ECERT the certificate is not valid yet"),
            (
                CertificateError::NotValidForName,
                "ECERT the certificate is not valid for hook.example",
            ),
            (CertificateError::UnknownIssuer, "ECERT the certificate's issuer is unknown"),
            (CertificateError::Revoked, "ECERT the certificate is revoked"),
        ] {
            assert_eq!(of(error), reason);
        }
        let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(classify_tls_error(&alert, "hook.example").0, TransportError::Protocol);
    }
}
