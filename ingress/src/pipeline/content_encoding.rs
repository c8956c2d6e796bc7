//! Undoes a body's content coding.
//!
//! Guarantee: decoding never yields, and never works on, more than the bound that it is given: a few hundred bytes that
//! stand for gigabytes are refused once the bound is passed, whatever they announce. Beside the result there is a window
//! of at most 32 KiB (gzip), none (zstd) or one of at most the bound rounded up to a power of two (Brotli).

use std::io::Read;

use actix_web::http::header::{CONTENT_ENCODING, HeaderMap};
use brotli_decompressor::StandardAlloc;
use brotli_decompressor::{
    Allocator, BrotliDecoderErrorCode, BrotliDecompressStream, BrotliResult, BrotliState,
};
use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe::{self, DCtx};

/// Bytes that are decoded between two looks at the bound.
const BROTLI_STEP: usize = 16 * 1024;
/// What a Brotli decoder needs beyond its window: slack behind the window, and its context maps.
const BROTLI_REST: usize = 64 * 1024;
/// `ZSTD_error_dstSize_tooSmall`, as the library's functions return it.
const ZSTD_TOO_SMALL: zstd_safe::ErrorCode = 0_usize.wrapping_sub(70);

/// A content coding that is undone here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentEncoding {
    /// RFC 1952; several members count as one body.
    Gzip,
    /// RFC 8878; several frames count as one body.
    Zstd,
    /// RFC 7932.
    Brotli,
}

/// Values of `Content-Encoding` that name no coding: charsets and MIME transfer encodings that
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

/// `Content-Encoding` names something else, or several codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnsupportedEncodingError;

/// Why bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentDecodeError {
    /// They stand for more than the bound.
    TooLarge,
    /// They are not, or not to their end, what their coding says.
    Malformed,
}

impl ContentEncoding {
    /// What `Content-Encoding` says; `None`: nothing that would have to be undone.
    ///
    /// # Errors
    /// [`UnsupportedEncodingError`].
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, UnsupportedEncodingError> {
        Self::named(headers.get_all(CONTENT_ENCODING).map(|value| value.as_bytes()))
    }

    /// What the values of `Content-Encoding` say; see [`ContentEncoding::of`].
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

    /// What `wire` stands for, if that is at most `max` bytes.
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
    // One byte more than may be, so that more can be told from just enough.
    let mut bounded = MultiGzDecoder::new(wire).take(max as u64 + 1);
    bounded.read_to_end(&mut decoded).map_err(|_| ContentDecodeError::Malformed)?;
    if decoded.len() > max { Err(ContentDecodeError::TooLarge) } else { Ok(decoded) }
}

/// In one step, straight into the result: a frame's window, which may be as large as its sender likes, needs no memory.
fn zstd(wire: &[u8], max: usize) -> Result<Vec<u8>, ContentDecodeError> {
    let mut decoded = Vec::with_capacity(max);
    let mut context = DCtx::try_create().ok_or(ContentDecodeError::TooLarge)?;
    match context.decompress(&mut decoded, wire) {
        Ok(length) if length <= max => Ok(decoded),
        Ok(_) | Err(ZSTD_TOO_SMALL) => Err(ContentDecodeError::TooLarge),
        Err(_) => Err(ContentDecodeError::Malformed),
    }
}

/// Hands out at most so many bytes at a time. A decoder whose window may not be had gives up.
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

    // The decoder's window is the smallest power of two that holds what was decoded and what the current block announces,
    // so one that needs more than this announces more than the bound.
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
            // More input than there is, more than there should be, or nonsense.
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
