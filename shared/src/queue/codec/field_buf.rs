//! The fields of a stream entry, in one piece of memory.
//!
//! Guarantee: what goes in comes out, pair by pair and in order, whatever the names and values are. Tens of thousands of
//! entries are read in a second: a piece for each of their strings would cost more than all that is done with them.

use std::fmt;

use bytes::Bytes;

use super::Fields;

/// Field pairs as they were read. Names may repeat and need not be text.
#[derive(Clone, Default)]
pub struct FieldBuf {
    text: Bytes,
    /// Of a name, of its value, and so on.
    places: Vec<ByteSpan>,
}

/// Where a string is in the text.
#[derive(Clone, Copy)]
pub(in crate::queue) struct ByteSpan {
    pub(in crate::queue) start: usize,
    pub(in crate::queue) end: usize,
}

impl FieldBuf {
    /// Of a `text` in which names and values, by turns, are at `places`.
    pub(in crate::queue) fn new(text: Bytes, places: Vec<ByteSpan>) -> Self {
        Self { text, places }
    }

    /// Names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.chunks_exact(2).map(|pair| (self.at(pair[0]), self.at(pair[1])))
    }

    /// What names and values weigh together, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.places.iter().map(|place| place.end - place.start).sum()
    }

    /// Each in a piece of its own.
    #[must_use]
    pub fn to_fields(&self) -> Fields {
        self.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// A value of [`Self::iter`], which holds on to all of them.
    pub(super) fn share(&self, value: &[u8]) -> Bytes {
        self.text.slice_ref(value)
    }

    fn at(&self, place: ByteSpan) -> &[u8] {
        self.text.get(place.start..place.end).unwrap_or_default()
    }
}

impl<A: AsRef<[u8]>, B: AsRef<[u8]>> FromIterator<(A, B)> for FieldBuf {
    fn from_iter<I: IntoIterator<Item = (A, B)>>(pairs: I) -> Self {
        let (mut text, mut places) = (Vec::new(), Vec::new());
        let mut append = |string: &[u8]| {
            let start = text.len();
            text.extend_from_slice(string);
            places.push(ByteSpan { start, end: text.len() });
        };
        for (name, value) in pairs {
            append(name.as_ref());
            append(value.as_ref());
        }
        Self { text: text.into(), places }
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

/// Bodies are shown nowhere.
impl fmt::Debug for FieldBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}
