//! Why a request is not genuine.

/// Why a request is not genuine. Neither `Debug` nor `Display` holds a secret, a signature or a part of the body, and
/// [`VerifyError::message`] tells a forger nothing but what the contract promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No signature header.
    #[error("no signature header")]
    Missing,
    /// A header that no genuine request has.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// No secret makes this signature.
    #[error("signature mismatch")]
    Mismatch,
    /// A genuine token for another body.
    #[error("the token was made for another body")]
    BodyHashMismatch,
    /// Too old, or from the future.
    #[error("timestamp outside tolerance: received {received}, current {current}")]
    OutsideTolerance {
        /// The request's time in seconds; for a token, the limit that it missed.
        received: i64,
        /// Our time in seconds.
        current: i64,
        /// Distance of the two in seconds.
        diff: i64,
        /// Whether all else about the request is right, so that a wrong clock of ours would be to blame.
        signature_valid: bool,
    },
}

impl VerifyError {
    /// Whether only time is the matter (`E_WEBHOOK_SIGNATURE_ERROR`), else `E_WEBHOOK_INVALID_SIGNATURE`.
    #[must_use]
    pub fn is_expiry(&self) -> bool {
        matches!(self, Self::OutsideTolerance { .. })
    }

    /// Whether the request would verify but for the time.
    #[must_use]
    pub fn is_valid_except_time(&self) -> bool {
        matches!(self, Self::OutsideTolerance { signature_valid: true, .. })
    }

    /// Whether another body under the same headers might verify, so that it is worth a try with what a compressed one
    /// stands for.
    #[must_use]
    pub fn depends_on_body(&self) -> bool {
        match self {
            Self::Mismatch | Self::BodyHashMismatch => true,
            Self::OutsideTolerance { signature_valid, .. } => !signature_valid,
            Self::Missing | Self::Malformed(_) => false,
        }
    }

    /// What the sender is told.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Missing | Self::Malformed(_) | Self::Mismatch => {
                "Invalid webhook signature".to_owned()
            }
            Self::BodyHashMismatch => "Webhook verification failed: hash mismatch".to_owned(),
            Self::OutsideTolerance { received, current, diff, .. } => {
                format!(
                    "Timestamp outside tolerance window: received={received}, current={current}, diff={diff}s"
                )
            }
        }
    }
}
