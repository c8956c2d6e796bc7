//! JSON output, one object per line.

use std::io;

use serde::Serialize;

use super::{OutputWriter, escaped};

/// Prints `record` as one line of visible characters.
pub(crate) fn line<T: Serialize>(screen: &mut OutputWriter, record: &T) -> io::Result<()> {
    let text = serde_json::to_string(record).map_err(io::Error::other)?;
    screen.write(&escaped(&text))?;
    screen.write("\n")
}
