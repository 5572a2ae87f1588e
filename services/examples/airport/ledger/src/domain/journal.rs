//! Double entry. An entry moves one amount from one account to another, so it cannot be unbalanced:
//! there is nowhere to write a second amount.

use super::money::Minor;
use std::fmt;

/// An account of the ledger.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Account {
    /// What an airline owes the airport.
    Receivable(String),
    /// Earned by landings.
    RevenueLanding,
    /// Earned by passengers.
    RevenuePassenger,
    /// Earned by slots that were not used.
    RevenueSlot,
    /// Owed to passengers.
    PayablePassengers,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receivable(airline) => write!(f, "receivable:{airline}"),
            Self::RevenueLanding => f.write_str("revenue:landing"),
            Self::RevenuePassenger => f.write_str("revenue:passenger"),
            Self::RevenueSlot => f.write_str("revenue:slot"),
            Self::PayablePassengers => f.write_str("payable:passengers"),
        }
    }
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Landing,
    Passenger,
    Delay,
    WeatherRelief,
    Reversal,
    Slot,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Landing => "LANDING",
            Self::Passenger => "PASSENGER",
            Self::Delay => "DELAY",
            Self::WeatherRelief => "WEATHER_RELIEF",
            Self::Reversal => "REVERSAL",
            Self::Slot => "SLOT",
        }
    }
}

/// One movement: `debit` grows by the amount on its debit side, `credit` on its credit side.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    kind: Kind,
    debit: Account,
    credit: Account,
    amount: Minor,
}

impl Entry {
    /// An entry of an amount over zero between two accounts. Nothing to book gives none.
    pub(crate) fn new(kind: Kind, debit: Account, credit: Account, amount: Minor) -> Option<Self> {
        (amount > Minor::ZERO && debit != credit).then_some(Self {
            kind,
            debit,
            credit,
            amount,
        })
    }

    /// The entry that undoes this one.
    pub(crate) fn reversal(&self) -> Self {
        Self {
            kind: Kind::Reversal,
            debit: self.credit.clone(),
            credit: self.debit.clone(),
            amount: self.amount,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn debit(&self) -> &Account {
        &self.debit
    }

    pub(crate) fn credit(&self) -> &Account {
        &self.credit
    }

    pub(crate) fn amount(&self) -> Minor {
        self.amount
    }
}
