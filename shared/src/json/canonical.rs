//! The canonical form: each value is a tag, then its content; texts stand after their length, members in order of
//! their keys, and containers end with a tag of their own, so the form can be read back and nothing is ambiguous.

use super::{JsonNode, Value, index};
use crate::platform::Pointer;

/// Bytes that are collected before they are handed on, since most pieces are shorter than a hash's block.
const COLLECTED: usize = 512;

pub(super) fn feed(root: &JsonNode<'_>, sink: &mut impl FnMut(&[u8]), ignore: &[Pointer]) {
    let paths: Vec<&[String]> = ignore.iter().map(|pointer| pointer.segments.as_slice()).collect();
    if !paths.iter().any(|path| path.is_empty()) {
        let mut form = CanonicalWriter { sink, collected: [0; COLLECTED], len: 0 };
        form.value(root, &paths);
        form.hand_on();
    }
}

struct CanonicalWriter<'s, S> {
    sink: &'s mut S,
    collected: [u8; COLLECTED],
    len: usize,
}

impl<S: FnMut(&[u8])> CanonicalWriter<'_, S> {
    /// Feeds `node` without what the paths in `ignore`, none of which is empty, lead to from it.
    fn value(&mut self, node: &JsonNode<'_>, ignore: &[&[String]]) {
        match &node.value {
            Value::Null => self.piece(b"n"),
            Value::Bool(true) => self.piece(b"t"),
            Value::Bool(false) => self.piece(b"f"),
            Value::Number(lexeme) => self.text(b'd', lexeme),
            Value::String(string) => self.text(b's', string),
            Value::Array(items) => {
                self.piece(b"[");
                for (at, item) in items.iter().enumerate() {
                    if let Some(rest) = below(ignore, |token| index(token) == Some(at)) {
                        self.value(item, &rest);
                    }
                }
                self.piece(b"]");
            }
            Value::Object(members) => {
                self.piece(b"{");
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by(|(one, _), (next, _)| one.cmp(next));
                for (key, member) in members {
                    if let Some(rest) = below(ignore, |token| token == key) {
                        self.text(b'k', key);
                        self.value(member, &rest);
                    }
                }
                self.piece(b"}");
            }
        }
    }

    /// Its length stands in front, seven bits a byte, lowest first; the last byte's highest bit is clear.
    fn text(&mut self, tag: u8, text: &str) {
        let mut len = text.len();
        let mut head = tag;
        while len >= 0x80 {
            self.piece(&[head]);
            head = (len & 0x7f) as u8 | 0x80;
            len >>= 7;
        }
        self.piece(&[head, len as u8]);
        self.piece(text.as_bytes());
    }

    #[inline]
    fn piece(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > COLLECTED {
            self.hand_on();
        }
        match self.collected.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => (self.sink)(bytes),
        }
    }

    fn hand_on(&mut self) {
        (self.sink)(self.collected.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

/// What to ignore below the child that `is` recognises; `None`: the child itself.
fn below<'p>(ignore: &[&'p [String]], is: impl Fn(&str) -> bool) -> Option<Vec<&'p [String]>> {
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
