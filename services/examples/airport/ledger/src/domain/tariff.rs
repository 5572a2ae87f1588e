//! The tariff file: amounts in cents, shares in permille.

use serde::Deserialize;

/// What the airport charges; the meaning of each figure stands in `tariff.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tariff {
    pub(crate) landing: Landing,
    pub(crate) passenger: Passenger,
    pub(crate) delay: Delay,
    pub(crate) cancellation: Cancellation,
}

/// By aircraft.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Landing {
    pub(crate) base: i64,
    pub(crate) per_seat: i64,
    pub(crate) jet_surcharge: i64,
    pub(crate) third_engine: i64,
    pub(crate) unknown_aircraft_seats: i64,
}

/// By seats.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Passenger {
    pub(crate) load_permille: i64,
    pub(crate) per_passenger: i64,
}

/// By delay and distance.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delay {
    pub(crate) threshold_minutes: i64,
    pub(crate) short_miles: i64,
    pub(crate) short_per_passenger: i64,
    pub(crate) medium_miles: i64,
    pub(crate) medium_per_passenger: i64,
    pub(crate) long_per_passenger: i64,
    pub(crate) weather_relief_permille: i64,
    pub(crate) relief_visibility_centimiles: i64,
    pub(crate) relief_wind_centimph: i64,
}

/// For flights that never left.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cancellation {
    pub(crate) slot_fee: i64,
}

impl Tariff {
    /// Reads a tariff. Every figure must be there, none negative, and no share over the whole.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let tariff: Self = toml::from_str(text)?;
        let (l, p, d) = (&tariff.landing, &tariff.passenger, &tariff.delay);
        let figures = [
            ("landing.base", l.base),
            ("landing.per_seat", l.per_seat),
            ("landing.jet_surcharge", l.jet_surcharge),
            ("landing.third_engine", l.third_engine),
            ("landing.unknown_aircraft_seats", l.unknown_aircraft_seats),
            ("passenger.load_permille", p.load_permille),
            ("passenger.per_passenger", p.per_passenger),
            ("delay.short_per_passenger", d.short_per_passenger),
            ("delay.medium_per_passenger", d.medium_per_passenger),
            ("delay.long_per_passenger", d.long_per_passenger),
            ("delay.weather_relief_permille", d.weather_relief_permille),
            ("cancellation.slot_fee", tariff.cancellation.slot_fee),
        ];
        for (name, figure) in figures {
            anyhow::ensure!(
                figure >= 0,
                "tariff: {name} is {figure}; it must not be negative"
            );
        }
        for (name, share) in [
            ("passenger.load_permille", p.load_permille),
            ("delay.weather_relief_permille", d.weather_relief_permille),
        ] {
            anyhow::ensure!(
                share <= 1000,
                "tariff: {name} is {share}; a share is at most 1000"
            );
        }
        anyhow::ensure!(
            d.short_miles <= d.medium_miles,
            "tariff: delay.short_miles is over medium_miles"
        );
        Ok(tariff)
    }
}
