//! A flight as the ledger prices it.

/// A flight of one airline, flown or cancelled.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Flight {
    pub(crate) row: i32,
    pub(crate) date: String,
    pub(crate) airline: String,
    pub(crate) number: i32,
    pub(crate) tail_number: String,
    pub(crate) origin: String,
    pub(crate) destination: String,
    pub(crate) time_hour: String,
    pub(crate) departure_delay_minutes: i32,
    pub(crate) arrival_delay_minutes: i32,
    pub(crate) distance_miles: i32,
    pub(crate) cancelled: bool,
    pub(crate) aircraft: Option<Aircraft>,
    pub(crate) weather: Option<Weather>,
}

/// What landing depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aircraft {
    pub(crate) seats: i32,
    pub(crate) engines: i32,
    pub(crate) engine: String,
}

/// What may excuse a delay. A figure that was not measured is negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weather {
    pub(crate) visibility_centimiles: i32,
    pub(crate) wind_centimph: i32,
}

impl Flight {
    /// The month it was scheduled for, 1 to 12; 0 when the date is none.
    pub(crate) fn month(&self) -> u32 {
        self.date
            .get(5..7)
            .and_then(|m| m.parse().ok())
            .unwrap_or(0)
    }
}
