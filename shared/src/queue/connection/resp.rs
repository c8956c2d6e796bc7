//! Replies of `XREADGROUP` and `XREAD`, read where they lie.
//!
//! Guarantee: a reply is read whole or refused, whatever its bytes are, and nothing is reserved that its bytes do not fill.
//! redis-rs makes a tree of a reply, with a piece of memory and a walk through a general parser for each of its strings;
//! of an entry, that costs more than planning and settling it do together.

use bytes::Bytes;

use super::super::codec::{Packed, Place};
use super::super::{Entry, Fault};
use super::reader::{From, Pages};
use crate::event::StreamId;

/// What ends a line, and a string.
const END: &[u8; 2] = b"\r\n";
/// Longer ones are no reply.
const LONGEST_LINE: usize = 64 * 1024;
/// What an empty string takes.
const SHORTEST: usize = 6;

/// How much of a reply has come.
#[derive(Debug)]
pub(super) struct Progress {
    /// What has been looked at.
    at: usize,
    /// Values that are still to come.
    left: usize,
}

impl Progress {
    /// Of a reply of which nothing has come.
    pub(super) fn new() -> Self {
        Self { at: 0, left: 1 }
    }

    /// Looks on in `received`, which is what was looked at before and what has come since. Whether the reply is whole.
    pub(super) fn look(&mut self, received: &[u8]) -> Result<bool, Fault> {
        let mut walk = Walk { reply: received, at: self.at };
        while self.left > 0 {
            let more = match walk.header()? {
                Some(Header::Line | Header::Nil) => 0,
                Some(Header::String(length)) if walk.rest().len() >= length.saturating_add(END.len()) => {
                    walk.at += length + END.len();
                    0
                }
                Some(Header::Array(length)) => length,
                None | Some(Header::String(_)) => return Ok(false),
            };
            self.left = (self.left - 1).checked_add(more).ok_or(Malformed)?;
            self.at = walk.at;
        }
        if walk.rest().is_empty() { Ok(true) } else { Err(Malformed.into()) }
    }
}

/// What a whole reply holds of `streams`.
pub(super) fn pages(reply: &[u8], streams: &[From<'_>]) -> Result<Pages, Fault> {
    let mut walk = Walk { reply, at: 0 };
    let Some(found) = walk.array()? else { return Ok(Vec::new()) };
    let mut pages = Vec::new();
    for _ in 0..found {
        if walk.array()? != Some(2) {
            return Err(Malformed.into());
        }
        let key = walk.text()?;
        let position = streams.iter().position(|(stream, _)| stream.as_bytes() == key);
        let position = position.ok_or(Fault::nonsense("a stream that was not asked for"))?;
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
struct Malformed;

impl std::convert::From<Malformed> for Fault {
    fn from(Malformed: Malformed) -> Self {
        Self::nonsense("streams expected")
    }
}

/// What a value begins with.
enum Header {
    /// All of it: a status, an error or a number.
    Line,
    /// All of it: there is nothing.
    Nil,
    /// A string of so many bytes, which follow.
    String(usize),
    /// So many values, which follow.
    Array(usize),
}

struct Walk<'a> {
    reply: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn rest(&self) -> &'a [u8] {
        self.reply.get(self.at..).unwrap_or_default()
    }

    /// Steps behind the line that the next value begins with; `None`: not all of it has come.
    fn header(&mut self) -> Result<Option<Header>, Malformed> {
        let Some((kind, rest)) = self.rest().split_first() else { return Ok(None) };
        let Some(line) = line(rest)? else { return Ok(None) };
        self.at += 1 + line.len() + END.len();
        Ok(Some(match kind {
            b'+' | b'-' | b':' => Header::Line,
            b'$' | b'*' if line == b"-1" => Header::Nil,
            b'$' => Header::String(length(line)?),
            b'*' => Header::Array(length(line)?),
            _ => return Err(Malformed),
        }))
    }

    /// Steps into an array: how many values it has, if it is not nil.
    fn array(&mut self) -> Result<Option<usize>, Malformed> {
        match self.header()? {
            Some(Header::Array(length)) => Ok(Some(length)),
            Some(Header::Nil) => Ok(None),
            _ => Err(Malformed),
        }
    }

    /// Steps behind a string: where it is.
    fn string(&mut self) -> Result<Place, Malformed> {
        let Some(Header::String(length)) = self.header()? else { return Err(Malformed) };
        let place = Place { start: self.at, end: self.at.saturating_add(length) };
        if self.reply.get(place.end..).is_none_or(|behind| !behind.starts_with(END)) {
            return Err(Malformed);
        }
        self.at = place.end + END.len();
        Ok(place)
    }

    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let Place { start, end } = self.string()?;
        Ok(self.reply.get(start..end).unwrap_or_default())
    }

    /// `[id, [field, value, …] | nil]`; nothing in the place of an entry is left out.
    fn entry(&mut self) -> Result<Option<Entry>, Malformed> {
        match self.array()? {
            None => return Ok(None),
            Some(2) => {}
            Some(_) => return Err(Malformed),
        }
        let id = std::str::from_utf8(self.text()?).ok().and_then(|text| text.parse::<StreamId>().ok());
        let id = id.ok_or(Malformed)?;
        let fields = match self.array()? {
            None | Some(0) => None,
            Some(strings) if strings.is_multiple_of(2) => Some(self.fields(strings)?),
            Some(_) => return Err(Malformed),
        };
        Ok(Some(Entry { id, fields }))
    }

    /// A copy: an entry that stays long must not keep all the others that came with it.
    fn fields(&mut self, strings: usize) -> Result<Packed, Malformed> {
        let begin = self.at;
        if strings > self.rest().len() / SHORTEST {
            return Err(Malformed);
        }
        let mut places = Vec::with_capacity(strings);
        for _ in 0..strings {
            let Place { start, end } = self.string()?;
            places.push(Place { start: start - begin, end: end - begin });
        }
        let text = self.reply.get(begin..self.at).unwrap_or_default();
        Ok(Packed::new(Bytes::copy_from_slice(text), places))
    }
}

/// What `rest` begins with, up to the end of the line; `None`: that has not come yet.
fn line(rest: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match rest.iter().position(|byte| *byte == END[0]) {
        Some(length) if rest.len() > length + 1 => {
            let (line, behind) = rest.split_at(length);
            if behind.starts_with(END) { Ok(Some(line)) } else { Err(Malformed) }
        }
        None if rest.len() > LONGEST_LINE => Err(Malformed),
        _ => Ok(None),
    }
}

fn length(digits: &[u8]) -> Result<usize, Malformed> {
    if digits.is_empty() {
        return Err(Malformed);
    }
    digits.iter().try_fold(0_usize, |number, digit| match digit {
        b'0'..=b'9' => {
            number.checked_mul(10).and_then(|tens| tens.checked_add(usize::from(digit - b'0'))).ok_or(Malformed)
        }
        _ => Err(Malformed),
    })
}

#[cfg(test)]
mod tests;
