//! Fields of a stream entry in one allocation.
//!
//! # Guarantees
//!
//! - The pairs come out as they went in, in order, for any names and values
//!   (`encoded_event_decodes_to_itself`).
//!
//! # Design
//!
//! A worker reads tens of thousands of entries a second. One allocation per string would cost more
//! than all other work on an entry.

use std::fmt;

use bytes::Bytes;

use super::Fields;

/// Field pairs as they were read. Names may repeat and need not be UTF-8.
#[derive(Clone, Default)]
pub struct FieldBuf {
    text: Bytes,
    /// Spans of a name, its value, the next name, and so on.
    spans: Vec<ByteSpan>,
}

/// Position of a string in the text.
#[derive(Clone, Copy)]
pub(in crate::queue) struct ByteSpan {
    pub(in crate::queue) start: usize,
    pub(in crate::queue) end: usize,
}

impl FieldBuf {
    /// Returns the fields of `text`, in which names and values alternate at `spans`.
    pub(in crate::queue) fn new(text: Bytes, spans: Vec<ByteSpan>) -> Self {
        Self { text, spans }
    }

    /// Names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.chunks_exact(2).map(|pair| (self.at(pair[0]), self.at(pair[1])))
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.spans.iter().map(|span| span.end - span.start).sum()
    }

    /// Copies the pairs into strings of their own.
    #[must_use]
    pub fn to_fields(&self) -> Fields {
        self.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// Returns a value of [`Self::iter`] that shares the memory of all fields.
    pub(super) fn slice(&self, value: &[u8]) -> Bytes {
        self.text.slice_ref(value)
    }

    fn at(&self, span: ByteSpan) -> &[u8] {
        self.text.get(span.start..span.end).unwrap_or_default()
    }
}

impl<A: AsRef<[u8]>, B: AsRef<[u8]>> FromIterator<(A, B)> for FieldBuf {
    fn from_iter<I: IntoIterator<Item = (A, B)>>(pairs: I) -> Self {
        let (mut text, mut spans) = (Vec::new(), Vec::new());
        let mut append = |string: &[u8]| {
            let start = text.len();
            text.extend_from_slice(string);
            spans.push(ByteSpan { start, end: text.len() });
        };
        for (name, value) in pairs {
            append(name.as_ref());
            append(value.as_ref());
        }
        Self { text: text.into(), spans }
    }
}

impl From<Fields> for FieldBuf {
    fn from(fields: Fields) -> Self {
        fields.into_iter().collect()
    }
}

impl PartialEq for FieldBuf {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for FieldBuf {}

/// Shows names only; bodies must not be logged.
impl fmt::Debug for FieldBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}
