//! Defines the error of a request that does not verify.

/// Reason why a request does not verify. `Debug` and `Display` hold no secret, no signature and no
/// part of the body. [`VerifyError::message`] tells the sender only what the contract documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// There is no signature header.
    #[error("no signature header")]
    Missing,
    /// A header that a valid request never has.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// No secret makes this signature.
    #[error("signature mismatch")]
    Mismatch,
    /// The token is valid, but for another body.
    #[error("the token was made for another body")]
    BodyHashMismatch,
    /// The time is too old or in the future.
    #[error("timestamp outside tolerance: received {received}, current {current}")]
    OutsideTolerance {
        /// Time of the request in seconds. For a token, the limit that it missed.
        received: i64,
        /// Our time in seconds.
        current: i64,
        /// Difference of the two in seconds.
        diff: i64,
        /// Set if the request is valid except for the time, so that our clock may be wrong.
        signature_valid: bool,
    },
}

impl VerifyError {
    /// Returns true for `E_WEBHOOK_SIGNATURE_ERROR`, where only the time is wrong. All others are
    /// `E_WEBHOOK_INVALID_SIGNATURE`.
    #[must_use]
    pub fn is_expiry(&self) -> bool {
        matches!(self, Self::OutsideTolerance { .. })
    }

    /// Returns true if the request would verify at another time.
    #[must_use]
    pub fn is_valid_except_time(&self) -> bool {
        matches!(self, Self::OutsideTolerance { signature_valid: true, .. })
    }

    /// Returns true if another body might verify under the same headers. A compressed body is then
    /// tried again after decoding.
    #[must_use]
    pub fn depends_on_body(&self) -> bool {
        match self {
            Self::Mismatch | Self::BodyHashMismatch => true,
            Self::OutsideTolerance { signature_valid, .. } => !signature_valid,
            Self::Missing | Self::Malformed(_) => false,
        }
    }

    /// Message for the sender.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Missing | Self::Malformed(_) | Self::Mismatch => {
                "Invalid webhook signature".to_owned()
            }
            Self::BodyHashMismatch => "Webhook verification failed: hash mismatch".to_owned(),
            Self::OutsideTolerance { received, current, diff, .. } => {
                format!(
                    "Timestamp outside tolerance window: received={received}, current={current}, \
                     diff={diff}s"
                )
            }
        }
    }
}
