//! Parser for replies of `XREADGROUP` and `XREAD` that copies no strings.
//!
//! # Guarantees
//!
//! - A reply parses as with redis-rs (`reply_parses_as_with_redis_rs`).
//! - No bytes make the scanner or the parser panic (`parser_never_panics_on_arbitrary_bytes`).
//! - No memory is reserved for a length that the received bytes do not hold
//!   (`length_without_bytes_is_refused_or_awaited`).
//!
//! # Design
//!
//! redis-rs builds a tree with an allocation and a run of a general parser for each string. For an
//! entry this costs more than planning and settling it together. See
//! `docs/contributing/decisions/0002-own-stream-reader.md`.

use bytes::Bytes;

use super::super::codec::{ByteSpan, FieldBuf};
use super::super::{CallError, StreamEntry};
use super::reader::{StreamCursor, StreamPages};
use crate::event::StreamId;

/// Terminator of a line and of a string.
const CRLF: &[u8; 2] = b"\r\n";
/// Maximum length of a line; a longer one is malformed.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Bytes of an empty string.
const MIN_STRING_BYTES: usize = 6;

/// Progress of receiving a reply.
#[derive(Debug)]
pub(super) struct ReplyScanner {
    /// Bytes scanned so far.
    at: usize,
    /// Values still to come.
    left: usize,
}

impl ReplyScanner {
    /// Returns a scanner at the beginning of a reply.
    pub(super) fn new() -> Self {
        Self { at: 0, left: 1 }
    }

    /// Continues in `received`, which holds all bytes of the reply so far. Returns true if the
    /// reply is complete.
    pub(super) fn scan(&mut self, received: &[u8]) -> Result<bool, CallError> {
        let mut parser = ReplyParser { reply: received, at: self.at };
        while self.left > 0 {
            let more = match parser.header()? {
                Some(ReplyHeader::Line | ReplyHeader::Nil) => 0,
                Some(ReplyHeader::String(length))
                    if parser.rest().len() >= length.saturating_add(CRLF.len()) =>
                {
                    parser.at += length + CRLF.len();
                    0
                }
                Some(ReplyHeader::Array(length)) => length,
                None | Some(ReplyHeader::String(_)) => return Ok(false),
            };
            self.left = (self.left - 1).checked_add(more).ok_or(MalformedReplyError)?;
            self.at = parser.at;
        }
        if parser.rest().is_empty() { Ok(true) } else { Err(MalformedReplyError.into()) }
    }
}

/// Parses the pages of `streams` in a complete reply.
pub(super) fn pages(reply: &[u8], streams: &[StreamCursor<'_>]) -> Result<StreamPages, CallError> {
    let mut parser = ReplyParser { reply, at: 0 };
    let Some(found) = parser.array()? else { return Ok(Vec::new()) };
    let mut pages = Vec::new();
    for _ in 0..found {
        if parser.array()? != Some(2) {
            return Err(MalformedReplyError.into());
        }
        let key = parser.text()?;
        let position = streams.iter().position(|(stream, _)| stream.as_bytes() == key);
        let position =
            position.ok_or(CallError::unexpected_reply("only requested streams expected"))?;
        let mut page = Vec::new();
        for _ in 0..parser.array()?.unwrap_or(0) {
            page.extend(parser.entry()?);
        }
        pages.push((position, page));
    }
    Ok(pages)
}

/// Error for bytes that are not a reply to a read.
#[derive(Debug)]
struct MalformedReplyError;

impl From<MalformedReplyError> for CallError {
    fn from(MalformedReplyError: MalformedReplyError) -> Self {
        Self::unexpected_reply("streams expected")
    }
}

/// First line of a value.
enum ReplyHeader {
    /// Complete value: a status, an error or a number.
    Line,
    /// Nil, a complete value.
    Nil,
    /// String of this many bytes, which follow.
    String(usize),
    /// Array of this many values, which follow.
    Array(usize),
}

struct ReplyParser<'a> {
    reply: &'a [u8],
    at: usize,
}

impl<'a> ReplyParser<'a> {
    fn rest(&self) -> &'a [u8] {
        self.reply.get(self.at..).unwrap_or_default()
    }

    /// Moves past the header of the next value. Returns `None` if it is incomplete.
    fn header(&mut self) -> Result<Option<ReplyHeader>, MalformedReplyError> {
        let Some((kind, rest)) = self.rest().split_first() else { return Ok(None) };
        let Some(line) = line(rest)? else { return Ok(None) };
        self.at += 1 + line.len() + CRLF.len();
        Ok(Some(match kind {
            b'+' | b'-' | b':' => ReplyHeader::Line,
            b'$' | b'*' if line == b"-1" => ReplyHeader::Nil,
            b'$' => ReplyHeader::String(length(line)?),
            b'*' => ReplyHeader::Array(length(line)?),
            _ => return Err(MalformedReplyError),
        }))
    }

    /// Moves past the header of an array and returns its length, or `None` if it is nil.
    fn array(&mut self) -> Result<Option<usize>, MalformedReplyError> {
        match self.header()? {
            Some(ReplyHeader::Array(length)) => Ok(Some(length)),
            Some(ReplyHeader::Nil) => Ok(None),
            _ => Err(MalformedReplyError),
        }
    }

    /// Moves past a string and returns its position.
    fn string(&mut self) -> Result<ByteSpan, MalformedReplyError> {
        let Some(ReplyHeader::String(length)) = self.header()? else {
            return Err(MalformedReplyError);
        };
        let span = ByteSpan { start: self.at, end: self.at.saturating_add(length) };
        if self.reply.get(span.end..).is_none_or(|behind| !behind.starts_with(CRLF)) {
            return Err(MalformedReplyError);
        }
        self.at = span.end + CRLF.len();
        Ok(span)
    }

    fn text(&mut self) -> Result<&'a [u8], MalformedReplyError> {
        let ByteSpan { start, end } = self.string()?;
        Ok(self.reply.get(start..end).unwrap_or_default())
    }

    /// Parses `[id, [field, value, …] | nil]`. Returns `None` for a nil in place of an entry.
    fn entry(&mut self) -> Result<Option<StreamEntry>, MalformedReplyError> {
        match self.array()? {
            None => return Ok(None),
            Some(2) => {}
            Some(_) => return Err(MalformedReplyError),
        }
        let id =
            std::str::from_utf8(self.text()?).ok().and_then(|text| text.parse::<StreamId>().ok());
        let id = id.ok_or(MalformedReplyError)?;
        let fields = match self.array()? {
            None | Some(0) => None,
            Some(strings) if strings.is_multiple_of(2) => Some(self.fields(strings)?),
            Some(_) => return Err(MalformedReplyError),
        };
        Ok(Some(StreamEntry { id, fields }))
    }

    /// Copies the fields, so that an entry does not keep the whole reply in memory.
    fn fields(&mut self, strings: usize) -> Result<FieldBuf, MalformedReplyError> {
        let begin = self.at;
        if strings > self.rest().len() / MIN_STRING_BYTES {
            return Err(MalformedReplyError);
        }
        let mut spans = Vec::with_capacity(strings);
        for _ in 0..strings {
            let ByteSpan { start, end } = self.string()?;
            spans.push(ByteSpan { start: start - begin, end: end - begin });
        }
        let text = self.reply.get(begin..self.at).unwrap_or_default();
        Ok(FieldBuf::new(Bytes::copy_from_slice(text), spans))
    }
}

/// Returns the first line of `rest`, or `None` if it is incomplete.
fn line(rest: &[u8]) -> Result<Option<&[u8]>, MalformedReplyError> {
    match rest.iter().position(|byte| *byte == CRLF[0]) {
        Some(length) if rest.len() > length + 1 => {
            let (line, behind) = rest.split_at(length);
            if behind.starts_with(CRLF) { Ok(Some(line)) } else { Err(MalformedReplyError) }
        }
        None if rest.len() > MAX_LINE_BYTES => Err(MalformedReplyError),
        _ => Ok(None),
    }
}

fn length(digits: &[u8]) -> Result<usize, MalformedReplyError> {
    if digits.is_empty() {
        return Err(MalformedReplyError);
    }
    digits.iter().try_fold(0_usize, |number, digit| match digit {
        b'0'..=b'9' => number
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(usize::from(digit - b'0')))
            .ok_or(MalformedReplyError),
        _ => Err(MalformedReplyError),
    })
}

#[cfg(test)]
mod tests;
