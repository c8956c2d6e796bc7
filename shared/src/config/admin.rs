//! Authorizes requests to admin routes.
//!
//! # Guarantees
//!
//! - Without a configured token, every request is refused (`admin_routes_open_for_the_token_only`).
//! - The presented token is compared in constant time.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::SecretText;

/// Token that admin routes require.
#[derive(Clone, Debug)]
pub struct AdminToken {
    token: SecretString,
    /// The token without its quotation marks, if it is configured in quotation marks.
    unquoted: Option<SecretString>,
}

/// Reason for which an admin route refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminAuthError {
    /// The request has no `Authorization: Bearer …` header (401).
    #[error("admin token required")]
    Missing,
    /// The token is wrong, or no token is configured (403).
    #[error("admin token refused")]
    Forbidden,
}

impl AdminToken {
    /// Creates a token that is exactly `token`.
    #[must_use]
    pub fn new(token: SecretString) -> Self {
        Self { token, unquoted: None }
    }

    /// Creates the token that `text` holds. In quotation marks, it is accepted with and without
    /// them.
    #[must_use]
    pub fn of(text: &SecretText) -> Self {
        let (token, clean) = (text.trimmed(), text.clean());
        Self { token: token.into(), unquoted: (clean != token).then(|| clean.into()) }
    }

    /// Checks the value of the `Authorization` header against the `configured` token.
    ///
    /// # Errors
    /// The header is missing, the token is wrong, or `configured` is `None`. The time that this
    /// takes does not depend on the token.
    pub fn authorize(
        configured: Option<&Self>,
        authorization: Option<&[u8]>,
    ) -> Result<(), AdminAuthError> {
        let Self { token, unquoted } = configured.ok_or(AdminAuthError::Forbidden)?;
        let presented = authorization.and_then(bearer).ok_or(AdminAuthError::Missing)?;
        // Digests have equal length, so the comparison does not reveal the token's length.
        let presented = Sha256::digest(presented);
        let is_one =
            |token: &SecretString| Sha256::digest(token.expose_secret()).ct_eq(&presented).into();
        if is_one(token) | unquoted.as_ref().is_some_and(is_one) {
            Ok(())
        } else {
            Err(AdminAuthError::Forbidden)
        }
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}
