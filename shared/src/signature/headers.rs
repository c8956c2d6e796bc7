//! What a verifier may ask of a request's headers.

use super::refusal::Refusal;

/// What a request says under a header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'h> {
    /// Nothing.
    Absent,
    /// One value, as received.
    One(&'h [u8]),
    /// Several header lines of this name, which no verifier may choose among.
    Several,
}

/// A request's headers.
pub trait Headers {
    /// The value of `name`, which is in lower case.
    fn find(&self, name: &str) -> Found<'_>;
}

/// Names and values in order, for tools and tests; names are compared without regard to case.
impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn find(&self, name: &str) -> Found<'_> {
        let mut values = self.iter().filter(|(one, _)| one.as_ref().eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (None, _) => Found::Absent,
            (Some((_, value)), None) => Found::One(value.as_ref()),
            (Some(_), Some(_)) => Found::Several,
        }
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn find(&self, name: &str) -> Found<'_> {
        self.as_slice().find(name)
    }
}

/// The signature: the first of `names` that is there counts.
pub(super) fn signature<'h>(headers: &'h dyn Headers, names: &[String]) -> Result<&'h [u8], Refusal> {
    for name in names {
        match headers.find(name) {
            Found::Absent => {}
            Found::One(value) => return Ok(value),
            Found::Several => return Err(Refusal::Malformed("several signature headers")),
        }
    }
    Err(Refusal::Missing)
}

/// A header that must be there once; `what` says which in the refusal.
pub(super) fn only<'h>(headers: &'h dyn Headers, name: &str, what: &'static str) -> Result<&'h [u8], Refusal> {
    match headers.find(name) {
        Found::One(value) => Ok(value),
        Found::Absent | Found::Several => Err(Refusal::Malformed(what)),
    }
}
