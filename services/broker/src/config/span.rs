//! Spans of time as people write them: "500ms", "10s", "5m", "1h".

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Reads a span.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => {
            return Err(format!(
                "{text:?} is not a span such as 500ms, 10s, 5m or 1h"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    let millis = number
        .checked_mul(millis)
        .ok_or_else(|| format!("{text:?} is too long"))?;
    Ok(Duration::from_millis(millis))
}

/// Writes a span in the largest unit that keeps it whole.
pub(super) fn text(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units
        .iter()
        .find(|(size, _)| millis > 0 && millis.is_multiple_of(*size));
    match unit {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None => format!("{millis}ms"),
    }
}

pub(super) fn serialize<S: Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&text(*span))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(input)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (written, millis) in [
            ("0ms", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("90m", 5_400_000),
        ] {
            assert_eq!(parse(written).unwrap(), Duration::from_millis(millis));
            assert_eq!(text(Duration::from_millis(millis)), written);
        }
        assert_eq!(text(Duration::from_secs(3600)), "1h");
        for bad in ["", "10", "s", "1.5s", "10 s", "-1s", "99999999999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
