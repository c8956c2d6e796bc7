//! Detects characters of a password that end it early in a URL (RFC 3986, section 3.2.1).

/// First character of the user name or password that has to be percent-encoded, if any.
fn unencoded(url: &str) -> Option<char> {
    let (_, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#'])?;
    let (authority, rest) = rest.split_at(end);
    let (delimiter, _) = rest.split_at_checked(1)?;
    if authority.contains('@') {
        return None;
    }
    // An `@` after the authority belongs to the password, unless it is in a query parameter.
    let (before, _) = rest.split_once('@')?;
    let is_parameter = before.split_once('?').is_some_and(|(_, query)| query.contains('='));
    if is_parameter { None } else { delimiter.chars().next() }
}

/// Returns true if a percent escape in the user name or password is invalid.
fn bad_escape(url: &str) -> bool {
    let user =
        url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| percent_encoding::percent_decode_str(user).decode_utf8().is_err())
}

/// Advice about the user name or password of `url`, which it does not show. `None` if both are
/// valid.
#[must_use]
pub fn percent_encoding_hint(url: &str) -> Option<String> {
    let wrong = unencoded(url).or_else(|| bad_escape(url).then_some('%'))?;
    let code = u32::from(wrong);
    Some(format!(
        "its user name or password holds {wrong:?}, which must be percent-encoded as %{code:02X}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_character_in_a_password_is_named() {
        for (url, wrong) in [
            ("redis://:pa/ss@host", '/'),
            ("redis://:pa#ss@host:6379/0", '#'),
            ("redis://:pa?ss@host", '?'),
            ("postgres://user:12/34@host/db", '/'),
            ("postgres://user:12/3@4?x=y@host/db", '/'),
            ("postgres://user:pa%ffss@host/db", '%'),
        ] {
            let hint = percent_encoding_hint(url).unwrap_or_default();
            assert!(hint.contains(&format!("{wrong:?}")), "{url}: {hint}");
            assert!(!hint.contains("12") && !hint.contains("ss@"), "{hint}");
        }
        assert!(percent_encoding_hint("redis://:a/b@c").is_some_and(|hint| hint.ends_with("%2F")));
    }

    #[test]
    fn other_urls_get_no_advice() {
        for url in [
            "redis://host",
            "redis://host:6379/0",
            "redis://:p%2Fss@host/0",
            "redis://:p@ss@host/0",
            "postgres://u:p@host/db?application_name=a@b",
            "postgres:///db?user=a@b&host=/run",
            "unix:///run/redis.sock",
            "nonsense",
        ] {
            assert_eq!(percent_encoding_hint(url), None, "{url}");
        }
    }
}
