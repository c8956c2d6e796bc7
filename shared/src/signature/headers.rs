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
    /// Calls `visit` with each value of `name`, which is in lower case, in the order received.
    fn each<'h>(&'h self, name: &str, visit: &mut dyn FnMut(&'h [u8]));

    /// The value of `name`, which is in lower case.
    fn find(&self, name: &str) -> Found<'_> {
        let mut found = Found::Absent;
        self.each(name, &mut |value| {
            found = if found == Found::Absent { Found::One(value) } else { Found::Several };
        });
        found
    }
}

/// Names and values in order, for tools and tests; names are compared without regard to case.
impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn each<'h>(&'h self, name: &str, visit: &mut dyn FnMut(&'h [u8])) {
        let values = self.iter().filter(|(one, _)| one.as_ref().eq_ignore_ascii_case(name));
        values.for_each(|(_, value)| visit(value.as_ref()));
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn each<'h>(&'h self, name: &str, visit: &mut dyn FnMut(&'h [u8])) {
        self.as_slice().each(name, visit);
    }
}

/// Calls `visit` with each line of the signature header, without blanks around it. The first of
/// `names` that is present counts.
///
/// # Errors
/// [`Refusal::Missing`] where none is present.
pub(super) fn signatures<'h>(
    headers: &'h dyn Headers,
    names: &[String],
    visit: &mut dyn FnMut(&'h [u8]),
) -> Result<(), Refusal> {
    let mut present = false;
    for name in names {
        headers.each(name, &mut |line| {
            present = true;
            visit(line.trim_ascii());
        });
        if present {
            return Ok(());
        }
    }
    Err(Refusal::Missing)
}

/// `text` without blanks and one pair of quotation marks around it, as structured fields have them.
pub(super) fn bare(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text)
}

/// A header that must be there once; `what` says which in the refusal.
pub(super) fn only<'h>(
    headers: &'h dyn Headers,
    name: &str,
    what: &'static str,
) -> Result<&'h [u8], Refusal> {
    match headers.find(name) {
        Found::One(value) => Ok(value),
        Found::Absent | Found::Several => Err(Refusal::Malformed(what)),
    }
}
