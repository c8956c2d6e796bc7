//! Writes the canonical form of a document, which is hashed.
//!
//! # Design
//!
//! Each value is a tag and its content. A string follows its length, an object's members are sorted
//! by key, and an end tag closes each array and object. So different documents have different
//! forms.

use super::{JsonNode, Value, index};
use crate::platform::Pointer;

/// Size of the buffer in bytes. Most pieces are shorter than a block of the hash.
const BUFFER_BYTES: usize = 512;

pub(super) fn feed(root: &JsonNode<'_>, sink: &mut impl FnMut(&[u8]), ignore: &[Pointer]) {
    let paths: Vec<&[String]> = ignore.iter().map(|pointer| pointer.segments.as_slice()).collect();
    if !paths.iter().any(|path| path.is_empty()) {
        let mut writer = CanonicalWriter { sink, buffer: [0; BUFFER_BYTES], len: 0 };
        writer.value(root, &paths);
        writer.flush();
    }
}

struct CanonicalWriter<'s, S> {
    sink: &'s mut S,
    buffer: [u8; BUFFER_BYTES],
    len: usize,
}

impl<S: FnMut(&[u8])> CanonicalWriter<'_, S> {
    /// Writes `node` without the values at the paths in `ignore`. None of the paths is empty.
    fn value(&mut self, node: &JsonNode<'_>, ignore: &[&[String]]) {
        match &node.value {
            Value::Null => self.put(b"n"),
            Value::Bool(true) => self.put(b"t"),
            Value::Bool(false) => self.put(b"f"),
            Value::Number(lexeme) => self.text(b'd', lexeme),
            Value::String(string) => self.text(b's', string),
            Value::Array(items) => {
                self.put(b"[");
                for (at, item) in items.iter().enumerate() {
                    if let Some(rest) = paths_below(ignore, |token| index(token) == Some(at)) {
                        self.value(item, &rest);
                    }
                }
                self.put(b"]");
            }
            Value::Object(members) => {
                self.put(b"{");
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by(|(one, _), (next, _)| one.cmp(next));
                for (key, member) in members {
                    if let Some(rest) = paths_below(ignore, |token| token == key) {
                        self.text(b'k', key);
                        self.value(member, &rest);
                    }
                }
                self.put(b"}");
            }
        }
    }

    /// Writes a string after its length: seven bits per byte, lowest first. The last byte's high
    /// bit is clear.
    fn text(&mut self, tag: u8, text: &str) {
        let mut len = text.len();
        let mut head = tag;
        while len >= 0x80 {
            self.put(&[head]);
            head = (len & 0x7f) as u8 | 0x80;
            len >>= 7;
        }
        self.put(&[head, len as u8]);
        self.put(text.as_bytes());
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > BUFFER_BYTES {
            self.flush();
        }
        match self.buffer.get_mut(self.len..self.len + bytes.len()) {
            Some(space) => {
                space.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => (self.sink)(bytes),
        }
    }

    fn flush(&mut self) {
        (self.sink)(self.buffer.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

/// Paths to ignore below the child that `is` selects. `None`: the child itself is ignored.
fn paths_below<'p>(
    ignore: &[&'p [String]],
    is: impl Fn(&str) -> bool,
) -> Option<Vec<&'p [String]>> {
    let mut rest = Vec::new();
    for path in ignore {
        if let Some((token, tail)) = path.split_first()
            && is(token)
        {
            if tail.is_empty() {
                return None;
            }
            rest.push(tail);
        }
    }
    Some(rest)
}
