//! Pages by key: a token says after which key the next page begins. Tokens are opaque to callers.

use crate::status::{Refused, invalid};

/// Items of a page.
pub(super) fn size(asked: i32, default: usize, most: usize) -> Result<usize, Refused> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(invalid("page_size", "must not be negative")),
    }
}

/// The token for the page after a key; empty if there is none.
pub(super) fn token(after: Option<String>) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in after.unwrap_or_default().bytes() {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The key that a token names; empty for the first page.
pub(super) fn after(token: &str) -> Result<String, Refused> {
    let unknown = || invalid("page_token", "it is not a token of this list");
    if !token.len().is_multiple_of(2) || !token.is_ascii() {
        return Err(unknown());
    }
    let digits = (0..token.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&token[at..at + 2], 16));
    let bytes = digits
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unknown())?;
    String::from_utf8(bytes).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        assert_eq!(after(&token(Some("a/ü".to_owned()))).unwrap(), "a/ü");
        assert_eq!(after(&token(None)).unwrap(), "");
        for bad in ["a", "zz", "ü", "ff"] {
            assert!(after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size(0, 50, 1000).unwrap(), 50);
        assert_eq!(size(5000, 50, 1000).unwrap(), 1000);
        assert!(size(-1, 50, 1000).is_err());
    }
}
