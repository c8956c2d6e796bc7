//! Reads the headers of a request for verification.

use super::verify_error::VerifyError;

/// Result of a header lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderLookup<'h> {
    /// No such header.
    Absent,
    /// One value, as received.
    One(&'h [u8]),
    /// Several lines of this header. A verifier must not choose one of them.
    Several,
}

/// Headers of a request.
pub trait Headers {
    /// Calls `visit` with each value of `name` (lower case) in the order received.
    fn each<'h>(&'h self, name: &str, visit: &mut dyn FnMut(&'h [u8]));

    /// Looks up the header `name` (lower case).
    fn find(&self, name: &str) -> HeaderLookup<'_> {
        let mut found = HeaderLookup::Absent;
        self.each(name, &mut |value| {
            found = if found == HeaderLookup::Absent {
                HeaderLookup::One(value)
            } else {
                HeaderLookup::Several
            };
        });
        found
    }
}

/// Names and values in order, for tools and tests. Names are compared without regard to case.
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

/// Calls `visit` with each line of the signature header, without the blanks around it. The first of
/// `names` that is present counts.
///
/// # Errors
/// Returns [`VerifyError::Missing`] if none of them is present.
pub(super) fn each_signature_line<'h>(
    headers: &'h dyn Headers,
    names: &[String],
    visit: &mut dyn FnMut(&'h [u8]),
) -> Result<(), VerifyError> {
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
    Err(VerifyError::Missing)
}

/// Removes blanks and one pair of quotation marks around `text`. Structured fields have such marks.
pub(super) fn unquote(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text)
}

/// Returns a header that must be present exactly once. `what` names it in the error.
pub(super) fn single_header<'h>(
    headers: &'h dyn Headers,
    name: &str,
    what: &'static str,
) -> Result<&'h [u8], VerifyError> {
    match headers.find(name) {
        HeaderLookup::One(value) => Ok(value),
        HeaderLookup::Absent | HeaderLookup::Several => Err(VerifyError::Malformed(what)),
    }
}
