//! From a raw row of the year's file to a flight, or to a reason why not. A row is never dropped.

use super::flight::Flight;

/// A row that is no flight to charge in full.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quarantine {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// The flight, where it could be read.
    pub(crate) flight: Option<Box<Flight>>,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It never left.
    Cancelled,
    /// It left, but when or where it arrived is not recorded.
    ArrivalUnknown,
    /// Not 19 columns.
    ColumnCount,
    /// No such day.
    BadDate,
    /// A figure that is none, or out of range.
    BadNumber,
    /// An airline, airport or hour that cannot be one.
    BadCode,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::ArrivalUnknown => "ARRIVAL_UNKNOWN",
            Self::ColumnCount => "COLUMN_COUNT",
            Self::BadDate => "BAD_DATE",
            Self::BadNumber => "BAD_NUMBER",
            Self::BadCode => "BAD_CODE",
        }
    }
}

/// Columns of the file, in its order.
const COLUMNS: [&str; 19] = [
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "air_time",
    "distance",
    "hour",
    "minute",
    "time_hour",
];

/// Reads one row.
pub(crate) fn parse(number: i32, row: &str) -> Result<Flight, Quarantine> {
    let columns = Columns::split(row)?;
    let date = columns.date()?;
    let departed = columns.optional("dep_time")?.is_some();
    let departure_delay = columns.optional("dep_delay")?;
    let arrival_delay = columns.optional("arr_delay")?;
    let flight = Flight {
        row: number,
        date,
        airline: columns.code("carrier", 2..=3)?,
        number: columns.required("flight", 1..=9999)?,
        tail_number: columns.text("tailnum").to_owned(),
        origin: columns.code("origin", 3..=4)?,
        destination: columns.code("dest", 3..=4)?,
        time_hour: columns.time_hour()?,
        departure_delay_minutes: departure_delay.unwrap_or(0),
        arrival_delay_minutes: arrival_delay.unwrap_or(0),
        distance_miles: columns.required("distance", 1..=12_500)?,
        cancelled: !departed,
        aircraft: None,
        weather: None,
    };
    let unusable = |reason, detail: &str| {
        let flight = Some(Box::new(flight.clone()));
        Err(Quarantine {
            reason,
            detail: detail.to_owned(),
            flight,
        })
    };
    if !departed {
        return unusable(Reason::Cancelled, "it has no departure time");
    }
    if arrival_delay.is_none() {
        return unusable(Reason::ArrivalUnknown, "it has no arrival delay");
    }
    Ok(flight)
}

/// The fields of a row. The file quotes nothing and "" or "NA" means not recorded.
struct Columns<'a>(Vec<&'a str>);

impl<'a> Columns<'a> {
    fn split(row: &'a str) -> Result<Self, Quarantine> {
        let fields: Vec<&str> = row.trim_end_matches(['\r', '\n']).split(',').collect();
        if fields.len() == COLUMNS.len() {
            return Ok(Self(fields));
        }
        let detail = format!("{} columns instead of {}", fields.len(), COLUMNS.len());
        Err(Quarantine {
            reason: Reason::ColumnCount,
            detail,
            flight: None,
        })
    }

    fn text(&self, name: &str) -> &'a str {
        let index = COLUMNS.iter().position(|c| *c == name).unwrap_or(0);
        match self.0.get(index).copied().unwrap_or("") {
            "NA" => "",
            text => text,
        }
    }

    /// A whole number, or none where it is not recorded. "517.0" counts as whole.
    fn optional(&self, name: &str) -> Result<Option<i32>, Quarantine> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let number = whole.parse().map_err(|_| {
            refuse(
                Reason::BadNumber,
                format!("{name} is {:?}, no whole number", shorten(text)),
            )
        })?;
        Ok(Some(number))
    }

    fn required(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<i32>,
    ) -> Result<i32, Quarantine> {
        match self.optional(name)? {
            Some(number) if range.contains(&number) => Ok(number),
            Some(number) => Err(refuse(
                Reason::BadNumber,
                format!(
                    "{name} is {number}, not within {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
            None => Err(refuse(Reason::BadNumber, format!("{name} is not recorded"))),
        }
    }

    fn code(
        &self,
        name: &str,
        length: std::ops::RangeInclusive<usize>,
    ) -> Result<String, Quarantine> {
        let text = self.text(name);
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if plain && length.contains(&text.len()) {
            return Ok(text.to_owned());
        }
        Err(refuse(
            Reason::BadCode,
            format!("{name} is {:?}", shorten(text)),
        ))
    }

    fn date(&self) -> Result<String, Quarantine> {
        let part = |name| self.optional(name).ok().flatten().unwrap_or(0);
        let (year, month, day) = (part("year"), part("month"), part("day"));
        if (1900..=2100).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days(year, month)).contains(&day)
        {
            return Ok(format!("{year:04}-{month:02}-{day:02}"));
        }
        let found = [self.text("year"), self.text("month"), self.text("day")].map(shorten);
        Err(refuse(
            Reason::BadDate,
            format!("{} is no day", found.join("-")),
        ))
    }

    fn time_hour(&self) -> Result<String, Quarantine> {
        let text = self.text("time_hour");
        let shape = |(i, b): (usize, u8)| match i {
            4 | 7 => b == b'-',
            10 => b == b'T',
            13 | 16 => b == b':',
            19 => b == b'Z',
            _ => b.is_ascii_digit(),
        };
        if text.len() == 20 && text.bytes().enumerate().all(shape) {
            return Ok(text.to_owned());
        }
        Err(refuse(
            Reason::BadCode,
            format!("time_hour is {:?}", shorten(text)),
        ))
    }
}

fn refuse(reason: Reason, detail: String) -> Quarantine {
    Quarantine {
        reason,
        detail,
        flight: None,
    }
}

/// At most 40 characters of what was found: a detail is for people and goes into a log.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

fn days(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = concat!(
        "2013,1,1,517.0,515,2.0,830.0,819,11.0,UA,1545,N14228,EWR,IAH,227.0,1400,",
        "5,15,2013-01-01T10:00:00Z"
    );

    fn reason(row: &str) -> Reason {
        parse(7, row).expect_err("quarantined").reason
    }

    #[test]
    fn good_row_is_a_flight() {
        let flight = parse(7, GOOD).expect("a flight");
        assert_eq!(
            (flight.row, flight.date.as_str(), flight.airline.as_str()),
            (7, "2013-01-01", "UA")
        );
        assert_eq!(
            (
                flight.arrival_delay_minutes,
                flight.distance_miles,
                flight.month()
            ),
            (11, 1400, 1)
        );
        assert!(!flight.cancelled);
    }

    #[test]
    fn flight_that_never_left_is_cancelled_and_kept() {
        let row = "2013,1,1,,1630,,,1815,,EV,4308,N18120,EWR,RDU,,416,16,30,2013-01-01T21:00:00Z";
        let held = parse(8, row).expect_err("quarantined");
        assert_eq!(held.reason, Reason::Cancelled);
        assert!(
            held.flight
                .is_some_and(|f| f.cancelled && f.tail_number == "N18120")
        );
    }

    #[test]
    fn diverted_flight_is_held() {
        assert_eq!(
            reason(&GOOD.replace("819,11.0", "819,")),
            Reason::ArrivalUnknown
        );
    }

    #[test]
    fn broken_rows_say_what_is_wrong() {
        assert_eq!(reason("a,b"), Reason::ColumnCount);
        assert_eq!(reason(""), Reason::ColumnCount);
        assert_eq!(
            reason(&GOOD.replace("2013,1,1,", "2013,2,30,")),
            Reason::BadDate
        );
        assert_eq!(reason(&GOOD.replace("2013,1,1,", ",1,1,")), Reason::BadDate);
        assert_eq!(reason(&GOOD.replace("1400", "far")), Reason::BadNumber);
        assert_eq!(
            reason(&GOOD.replace("1400", "99999999999")),
            Reason::BadNumber
        );
        assert_eq!(reason(&GOOD.replace(",UA,", ",ua,")), Reason::BadCode);
        assert_eq!(reason(&GOOD.replace("T10:00", " 10:00")), Reason::BadCode);
    }

    #[test]
    fn details_stay_short() {
        let row = GOOD.replace("UA", &"x".repeat(5000));
        assert!(parse(1, &row).expect_err("quarantined").detail.len() < 80);
    }
}
