//! Replies of `XREADGROUP` and `XREAD`, read where they lie.
//!
//! Guarantee: a reply is read whole or refused, whatever its bytes are, and nothing is reserved that its bytes do not fill.
//! redis-rs makes a tree of a reply, with a piece of memory and a walk through a general parser for each of its strings;
//! of an entry, that costs more than planning and settling it do together.

use bytes::Bytes;

use super::super::codec::{ByteSpan, FieldBuf};
use super::super::{CallError, StreamEntry};
use super::reader::{From, StreamPages};
use crate::event::StreamId;

/// What ends a line, and a string.
const CRLF: &[u8; 2] = b"\r\n";
/// Longer ones are no reply.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// What an empty string takes.
const MIN_STRING_BYTES: usize = 6;

/// How much of a reply has come.
#[derive(Debug)]
pub(super) struct ReplyScanner {
    /// What has been looked at.
    at: usize,
    /// Values that are still to come.
    left: usize,
}

impl ReplyScanner {
    /// Of a reply of which nothing has come.
    pub(super) fn new() -> Self {
        Self { at: 0, left: 1 }
    }

    /// Looks on in `received`, which is what was looked at before and what has come since. Whether the reply is whole.
    pub(super) fn scan(&mut self, received: &[u8]) -> Result<bool, CallError> {
        let mut walk = ReplyParser { reply: received, at: self.at };
        while self.left > 0 {
            let more = match walk.header()? {
                Some(ReplyHeader::Line | ReplyHeader::Nil) => 0,
                Some(ReplyHeader::String(length))
                    if walk.rest().len() >= length.saturating_add(CRLF.len()) =>
                {
                    walk.at += length + CRLF.len();
                    0
                }
                Some(ReplyHeader::Array(length)) => length,
                None | Some(ReplyHeader::String(_)) => return Ok(false),
            };
            self.left = (self.left - 1).checked_add(more).ok_or(MalformedReplyError)?;
            self.at = walk.at;
        }
        if walk.rest().is_empty() { Ok(true) } else { Err(MalformedReplyError.into()) }
    }
}

/// What a whole reply holds of `streams`.
pub(super) fn pages(reply: &[u8], streams: &[From<'_>]) -> Result<StreamPages, CallError> {
    let mut walk = ReplyParser { reply, at: 0 };
    let Some(found) = walk.array()? else { return Ok(Vec::new()) };
    let mut pages = Vec::new();
    for _ in 0..found {
        if walk.array()? != Some(2) {
            return Err(MalformedReplyError.into());
        }
        let key = walk.text()?;
        let position = streams.iter().position(|(stream, _)| stream.as_bytes() == key);
        let position =
            position.ok_or(CallError::unexpected_reply("a stream that was not asked for"))?;
        let mut page = Vec::new();
        for _ in 0..walk.array()?.unwrap_or(0) {
            page.extend(walk.entry()?);
        }
        pages.push((position, page));
    }
    Ok(pages)
}

/// A reply that is none.
#[derive(Debug)]
struct MalformedReplyError;

impl std::convert::From<MalformedReplyError> for CallError {
    fn from(MalformedReplyError: MalformedReplyError) -> Self {
        Self::unexpected_reply("streams expected")
    }
}

/// What a value begins with.
enum ReplyHeader {
    /// All of it: a status, an error or a number.
    Line,
    /// All of it: there is nothing.
    Nil,
    /// A string of so many bytes, which follow.
    String(usize),
    /// So many values, which follow.
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

    /// Steps behind the line that the next value begins with; `None`: not all of it has come.
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

    /// Steps into an array: how many values it has, if it is not nil.
    fn array(&mut self) -> Result<Option<usize>, MalformedReplyError> {
        match self.header()? {
            Some(ReplyHeader::Array(length)) => Ok(Some(length)),
            Some(ReplyHeader::Nil) => Ok(None),
            _ => Err(MalformedReplyError),
        }
    }

    /// Steps behind a string: where it is.
    fn string(&mut self) -> Result<ByteSpan, MalformedReplyError> {
        let Some(ReplyHeader::String(length)) = self.header()? else {
            return Err(MalformedReplyError);
        };
        let place = ByteSpan { start: self.at, end: self.at.saturating_add(length) };
        if self.reply.get(place.end..).is_none_or(|behind| !behind.starts_with(CRLF)) {
            return Err(MalformedReplyError);
        }
        self.at = place.end + CRLF.len();
        Ok(place)
    }

    fn text(&mut self) -> Result<&'a [u8], MalformedReplyError> {
        let ByteSpan { start, end } = self.string()?;
        Ok(self.reply.get(start..end).unwrap_or_default())
    }

    /// `[id, [field, value, …] | nil]`; nothing in the place of an entry is left out.
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

    /// A copy: an entry that stays long must not keep all the others that came with it.
    fn fields(&mut self, strings: usize) -> Result<FieldBuf, MalformedReplyError> {
        let begin = self.at;
        if strings > self.rest().len() / MIN_STRING_BYTES {
            return Err(MalformedReplyError);
        }
        let mut places = Vec::with_capacity(strings);
        for _ in 0..strings {
            let ByteSpan { start, end } = self.string()?;
            places.push(ByteSpan { start: start - begin, end: end - begin });
        }
        let text = self.reply.get(begin..self.at).unwrap_or_default();
        Ok(FieldBuf::new(Bytes::copy_from_slice(text), places))
    }
}

/// What `rest` begins with, up to the end of the line; `None`: that has not come yet.
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
