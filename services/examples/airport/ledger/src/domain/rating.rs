//! Pricing: from a flight and the tariff to journal entries.

use super::flight::{Aircraft, Flight, Weather};
use super::journal::{Account, Entry, Kind};
use super::money::{Minor, Overflow, permille_half_up};
use super::tariff::{Delay, Landing, Tariff};

/// The entries of one flight, in the order in which they are booked.
pub(crate) fn rate(flight: &Flight, tariff: &Tariff) -> Result<Vec<Entry>, Overflow> {
    if flight.cancelled {
        cancelled(flight, tariff)
    } else {
        flown(flight, tariff)
    }
}

fn flown(flight: &Flight, tariff: &Tariff) -> Result<Vec<Entry>, Overflow> {
    let airline = || Account::Receivable(flight.airline.clone());
    let passengers = passengers(flight, tariff)?;
    let passenger_fee = Minor::new(tariff.passenger.per_passenger).times(passengers)?;
    let compensation = compensation(flight, &tariff.delay, passengers)?;
    let relief = match flight.weather {
        Some(weather) if excuses(weather, &tariff.delay) => {
            compensation.permille(tariff.delay.weather_relief_permille)?
        }
        _ => Minor::ZERO,
    };
    let landing = landing(flight.aircraft.as_ref(), &tariff.landing)?;
    Ok([
        Entry::new(Kind::Landing, airline(), Account::RevenueLanding, landing),
        Entry::new(
            Kind::Passenger,
            airline(),
            Account::RevenuePassenger,
            passenger_fee,
        ),
        Entry::new(
            Kind::Delay,
            airline(),
            Account::PayablePassengers,
            compensation,
        ),
        Entry::new(
            Kind::WeatherRelief,
            Account::PayablePassengers,
            airline(),
            relief,
        ),
    ]
    .into_iter()
    .flatten()
    .collect())
}

/// Landing was booked when the flight was scheduled; it is reversed, and the slot is paid for.
fn cancelled(flight: &Flight, tariff: &Tariff) -> Result<Vec<Entry>, Overflow> {
    let airline = || Account::Receivable(flight.airline.clone());
    let amount = landing(flight.aircraft.as_ref(), &tariff.landing)?;
    let booked = Entry::new(Kind::Landing, airline(), Account::RevenueLanding, amount);
    let reversed = booked.as_ref().map(Entry::reversal);
    let fee = Minor::new(tariff.cancellation.slot_fee);
    let slot = Entry::new(Kind::Slot, airline(), Account::RevenueSlot, fee);
    Ok([booked, reversed, slot].into_iter().flatten().collect())
}

fn seats(aircraft: Option<&Aircraft>, landing: &Landing) -> i64 {
    aircraft.map_or(landing.unknown_aircraft_seats, |a| {
        i64::from(a.seats.max(0))
    })
}

fn landing(aircraft: Option<&Aircraft>, tariff: &Landing) -> Result<Minor, Overflow> {
    let by_seats = Minor::new(tariff.per_seat).times(seats(aircraft, tariff))?;
    let mut amount = Minor::new(tariff.base).plus(by_seats)?;
    if let Some(aircraft) = aircraft {
        if matches!(aircraft.engine.as_str(), "Turbo-fan" | "Turbo-jet") {
            amount = amount.plus(Minor::new(tariff.jet_surcharge))?;
        }
        let beyond_two = i64::from(aircraft.engines.saturating_sub(2).max(0));
        amount = amount.plus(Minor::new(tariff.third_engine).times(beyond_two)?)?;
    }
    Ok(amount)
}

fn passengers(flight: &Flight, tariff: &Tariff) -> Result<i64, Overflow> {
    let seats = seats(flight.aircraft.as_ref(), &tariff.landing);
    permille_half_up(seats, tariff.passenger.load_permille)
}

fn compensation(flight: &Flight, tariff: &Delay, passengers: i64) -> Result<Minor, Overflow> {
    if i64::from(flight.arrival_delay_minutes) <= tariff.threshold_minutes {
        return Ok(Minor::ZERO);
    }
    let miles = i64::from(flight.distance_miles);
    let each = if miles <= tariff.short_miles {
        tariff.short_per_passenger
    } else if miles <= tariff.medium_miles {
        tariff.medium_per_passenger
    } else {
        tariff.long_per_passenger
    };
    Minor::new(each).times(passengers)
}

fn excuses(weather: Weather, tariff: &Delay) -> bool {
    let blind = weather.visibility_centimiles >= 0
        && i64::from(weather.visibility_centimiles) <= tariff.relief_visibility_centimiles;
    blind || i64::from(weather.wind_centimph) >= tariff.relief_wind_centimph
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tariff() -> Tariff {
        Tariff::parse(include_str!("../../../tariff.toml")).expect("the committed tariff")
    }

    fn flight() -> Flight {
        Flight {
            airline: "UA".into(),
            date: "2013-01-01".into(),
            distance_miles: 1400,
            aircraft: Some(Aircraft {
                seats: 149,
                engines: 2,
                engine: "Turbo-fan".into(),
            }),
            ..Flight::default()
        }
    }

    fn cents(entries: &[Entry]) -> Vec<(&'static str, i64)> {
        entries
            .iter()
            .map(|e| (e.kind().name(), e.amount().cents()))
            .collect()
    }

    #[test]
    fn punctual_flight_pays_landing_and_passengers() {
        let entries = rate(&flight(), &tariff()).expect("fits");
        // 12500 + 149*145 + 4200; 149*0.823 = 122.6 -> 123 passengers of 450.
        assert_eq!(
            cents(&entries),
            [("LANDING", 38_305), ("PASSENGER", 55_350)]
        );
    }

    #[test]
    fn delay_at_the_threshold_costs_nothing_and_one_minute_more_does() {
        let mut late = flight();
        late.arrival_delay_minutes = 180;
        assert_eq!(rate(&late, &tariff()).expect("fits").len(), 2);
        late.arrival_delay_minutes = 181;
        let entries = rate(&late, &tariff()).expect("fits");
        assert_eq!(cents(&entries)[2], ("DELAY", 123 * 4000));
    }

    #[test]
    fn bad_weather_waives_a_share() {
        let mut late = flight();
        late.arrival_delay_minutes = 300;
        late.distance_miles = 200;
        late.weather = Some(Weather {
            visibility_centimiles: 100,
            wind_centimph: -1,
        });
        let entries = rate(&late, &tariff()).expect("fits");
        // 123 * 2500 * 0.375 = 115312.5, half up.
        assert_eq!(
            cents(&entries)[2..],
            [("DELAY", 307_500), ("WEATHER_RELIEF", 115_313)]
        );
        late.weather = Some(Weather {
            visibility_centimiles: 101,
            wind_centimph: 2874,
        });
        assert_eq!(rate(&late, &tariff()).expect("fits").len(), 3);
    }

    #[test]
    fn cancelled_flight_nets_to_the_slot_fee() {
        let mut gone = flight();
        gone.cancelled = true;
        gone.aircraft = None;
        let entries = rate(&gone, &tariff()).expect("fits");
        assert_eq!(
            cents(&entries),
            [("LANDING", 29_900), ("REVERSAL", 29_900), ("SLOT", 7_500)]
        );
        assert_eq!(entries[0].debit(), entries[1].credit());
        assert_eq!(entries[0].credit(), entries[1].debit());
    }

    #[test]
    fn absurd_tariff_is_an_overflow_not_a_wrong_amount() {
        let mut absurd = tariff();
        absurd.landing.per_seat = i64::MAX;
        assert_eq!(rate(&flight(), &absurd), Err(Overflow));
    }
}
