//! Reads HTTP/1.1 responses with a `content-length`, one at a time.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest response that can be read.
pub(crate) const MAX_RESPONSE_BYTES: usize = 4096;

/// Reads one response to its end and returns its status.
pub(crate) async fn read(
    stream: &mut TcpStream,
    buffer: &mut [u8; MAX_RESPONSE_BYTES],
) -> io::Result<u16> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some((status, length)) = head(&buffer[..filled])? {
            if filled == length {
                return Ok(status);
            }
            if filled > length {
                return Err(io::Error::other("more than one response to one request"));
            }
        }
    }
}

/// Returns status and total length of the response in `bytes`, or `None` if its head is incomplete.
fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("not an HTTP/1.1 response"))?;
    let length: Option<usize> = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    });
    let length = length.ok_or_else(|| io::Error::other("a response without content-length"))?;
    Ok(Some((status, end + 4 + length)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn response_is_complete_with_its_body() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\ndate: now\r\n\r\nbody";
        assert_eq!(head(whole).unwrap(), Some((202, whole.len())));
        assert_eq!(head(&whole[..30]).unwrap(), None);
        assert!(head(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(head(b"SSH-2.0\r\n\r\n").is_err());
    }
}
