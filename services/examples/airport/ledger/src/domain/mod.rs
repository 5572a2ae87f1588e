//! What the airport charges and how it is booked. No I/O, no wire types.

pub(crate) mod flight;
pub(crate) mod intake;
pub(crate) mod journal;
pub(crate) mod money;
pub(crate) mod rating;
pub(crate) mod tariff;
