//! Decodes compressed bodies.
//!
//! # Guarantees
//!
//! - A decoder never returns or buffers more than the given bound, even if the bytes announce more.
//!   (`decompression_bomb_is_refused_within_the_bound`)
//!
//! # Design
//!
//! Besides the result, a decoder needs a window. It has at most 32 KiB for gzip, none for zstd, and
//! the bound rounded up to a power of two for Brotli.

use std::io::Read;

use actix_web::http::header::{CONTENT_ENCODING, HeaderMap};
use brotli_decompressor::StandardAlloc;
use brotli_decompressor::{
    Allocator, BrotliDecoderErrorCode, BrotliDecompressStream, BrotliResult, BrotliState,
};
use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe::{self, DCtx};

/// Bytes that are decoded between two checks of the bound.
const BROTLI_STEP: usize = 16 * 1024;
/// Memory of a Brotli decoder besides its window: slack behind the window, and context maps.
const BROTLI_REST: usize = 64 * 1024;
/// `ZSTD_error_dstSize_tooSmall`, as the functions of the library return it.
const ZSTD_TOO_SMALL: zstd_safe::ErrorCode = 0_usize.wrapping_sub(70);

/// Supported content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentEncoding {
    /// RFC 1952; several members are one body.
    Gzip,
    /// RFC 8878; several frames are one body.
    Zstd,
    /// RFC 7932.
    Brotli,
}

/// Values of `Content-Encoding` that name no encoding: charsets and MIME transfer encodings that
/// senders put there by mistake, and `none`. The bytes on the wire are the body.
const NO_CODING: [&str; 10] = [
    "identity",
    "none",
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "7bit",
    "8bit",
    "binary",
];

/// `Content-Encoding` names an unknown encoding, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnsupportedEncodingError;

/// Reason why bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentDecodeError {
    /// The decoded bytes exceed the bound.
    TooLarge,
    /// The bytes are malformed or truncated.
    Malformed,
}

impl ContentEncoding {
    /// Reads `Content-Encoding`. `None`: the body is not encoded.
    ///
    /// # Errors
    /// [`UnsupportedEncodingError`].
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, UnsupportedEncodingError> {
        Self::named(headers.get_all(CONTENT_ENCODING).map(|value| value.as_bytes()))
    }

    /// Reads the values of `Content-Encoding`; see [`ContentEncoding::of`].
    ///
    /// # Errors
    /// [`UnsupportedEncodingError`].
    pub(crate) fn named<'v>(
        values: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Option<Self>, UnsupportedEncodingError> {
        let words = values.flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        let names_none =
            |word: &[u8]| NO_CODING.iter().any(|none| word.eq_ignore_ascii_case(none.as_bytes()));
        let mut words = words.filter(|word| !word.is_empty() && !names_none(word));
        let (only, further) = (words.next(), words.next());
        match only.map(<[u8]>::to_ascii_lowercase).as_deref() {
            _ if further.is_some() => Err(UnsupportedEncodingError),
            None => Ok(None),
            Some(b"gzip" | b"x-gzip") => Ok(Some(Self::Gzip)),
            Some(b"zstd") => Ok(Some(Self::Zstd)),
            Some(b"br") => Ok(Some(Self::Brotli)),
            Some(_) => Err(UnsupportedEncodingError),
        }
    }

    /// Decodes `wire` to at most `max` bytes.
    ///
    /// # Errors
    /// See [`ContentDecodeError`].
    pub(crate) fn decode(self, wire: &[u8], max: usize) -> Result<Vec<u8>, ContentDecodeError> {
        let mut decoded = match self {
            Self::Gzip => gzip(wire, max),
            Self::Zstd => zstd(wire, max),
            Self::Brotli => brotli(wire, max),
        }?;
        decoded.shrink_to_fit();
        Ok(decoded)
    }
}

fn gzip(wire: &[u8], max: usize) -> Result<Vec<u8>, ContentDecodeError> {
    let mut decoded = Vec::new();
    // One byte more than allowed distinguishes too much from exactly enough.
    let mut bounded = MultiGzDecoder::new(wire).take(max as u64 + 1);
    bounded.read_to_end(&mut decoded).map_err(|_| ContentDecodeError::Malformed)?;
    if decoded.len() > max { Err(ContentDecodeError::TooLarge) } else { Ok(decoded) }
}

/// Decodes in one step into the result. So the frame's window, whose size the sender chooses, needs
/// no memory.
fn zstd(wire: &[u8], max: usize) -> Result<Vec<u8>, ContentDecodeError> {
    let mut decoded = Vec::with_capacity(max);
    let mut context = DCtx::try_create().ok_or(ContentDecodeError::TooLarge)?;
    match context.decompress(&mut decoded, wire) {
        Ok(length) if length <= max => Ok(decoded),
        Ok(_) | Err(ZSTD_TOO_SMALL) => Err(ContentDecodeError::TooLarge),
        Err(_) => Err(ContentDecodeError::Malformed),
    }
}

/// Allocator with a bound on one allocation. A decoder that cannot allocate its window gives up.
struct BoundedAllocator {
    most: usize,
    inner: StandardAlloc,
}

impl Allocator<u8> for BoundedAllocator {
    type AllocatedMemory = <StandardAlloc as Allocator<u8>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        if len > self.most { Self::AllocatedMemory::default() } else { self.inner.alloc_cell(len) }
    }

    fn free_cell(&mut self, cell: Self::AllocatedMemory) {
        <StandardAlloc as Allocator<u8>>::free_cell(&mut self.inner, cell);
    }
}

fn brotli(wire: &[u8], max: usize) -> Result<Vec<u8>, ContentDecodeError> {
    use BrotliDecoderErrorCode::{
        BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_1, BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_2,
    };

    // The window is the smallest power of two that holds the decoded bytes and the announced block.
    // A larger window means that the block exceeds the bound.
    let most = max.max(1).next_power_of_two().saturating_add(BROTLI_REST);
    let words = || StandardAlloc::default();
    let mut state: BrotliState<BoundedAllocator, StandardAlloc, StandardAlloc> =
        BrotliState::new_strict(BoundedAllocator { most, inner: words() }, words(), words());
    let (mut decoded, mut step) = (Vec::new(), vec![0; BROTLI_STEP.min(max + 1)]);
    let (mut left, mut at, mut total) = (wire.len(), 0, 0);
    loop {
        let (mut room, mut written) = (step.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            wire,
            &mut room,
            &mut written,
            &mut step,
            &mut total,
            &mut state,
        );
        decoded.extend_from_slice(step.get(..written).unwrap_or_default());
        if decoded.len() > max {
            return Err(ContentDecodeError::TooLarge);
        }
        match result {
            BrotliResult::ResultSuccess if left == 0 => return Ok(decoded),
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultFailure
                if matches!(
                    state.error_code,
                    BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_1
                        | BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_2
                ) =>
            {
                return Err(ContentDecodeError::TooLarge);
            }
            // Truncated, trailing or malformed bytes.
            BrotliResult::NeedsMoreInput
            | BrotliResult::ResultSuccess
            | BrotliResult::ResultFailure => {
                return Err(ContentDecodeError::Malformed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
