//! The reserve: slots that attempts of a lower latency class leave free for those of a higher one, so that these begin
//! at once however long the others take.
//!
//! It is kept by a class of workers together, so it may be a whole worker of one slot, and only for latency classes
//! that its workers serve. It counts slots and what is on them, and needs neither clock nor history: what it keeps
//! free is a share of what there is.

use crate::policy::Latency;

/// One slot in so many is kept free for each higher latency class, and at least one. A quarter: of eight slots two, so
/// that two calls that come together both find one; the price is that lower work has three quarters of the slots.
const RESERVE_SHARE: u64 = 4;

const LATENCIES: usize = Latency::ALL.len();

/// What a worker brings to its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Attempts that it runs at once, by its slots and its window.
    pub(crate) slots: u32,
    /// Unfinished attempts by latency class, suspended flows not counted.
    pub(crate) in_flight: [u32; LATENCIES],
}

/// All that the workers of a class bring.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    slots: u64,
    in_flight: [u64; LATENCIES],
    /// Which latency classes the workers serve.
    served: [bool; LATENCIES],
}

impl Reserve {
    /// A worker brings something else than before.
    pub(crate) fn replace(&mut self, before: &Offer, now: &Offer) {
        self.slots = self.slots - u64::from(before.slots) + u64::from(now.slots);
        let changes = before.in_flight.iter().zip(now.in_flight);
        for (sum, (before, now)) in self.in_flight.iter_mut().zip(changes) {
            *sum = *sum - u64::from(*before) + u64::from(now);
        }
    }

    /// The workers serve methods of these.
    pub(crate) fn serve(&mut self, latencies: impl Iterator<Item = Latency>) {
        self.served = Default::default();
        latencies.for_each(|latency| self.served[latency as usize] = true);
    }

    /// Whether methods of more than one latency class are served.
    pub(crate) fn is_mixed(&self) -> bool {
        self.served.iter().filter(|served| **served).count() > 1
    }

    /// Whether something of a higher latency class is served.
    pub(crate) fn is_lower(&self, latency: Latency) -> bool {
        self.higher(latency) > 0
    }

    fn higher(&self, latency: Latency) -> u64 {
        let higher = &self.served[latency as usize + 1..];
        higher.iter().filter(|served| **served).count() as u64
    }

    /// How many more attempts of a latency class may begin before it would take what is kept from it, or what is
    /// kept from a class between it and the highest, which has what it leaves.
    pub(crate) fn room(&self, latency: Latency) -> u64 {
        if crate::mutant::is(crate::mutant::Mutant::ReserveIgnored) {
            return u64::MAX;
        }
        let mut room = u64::MAX;
        let mut in_flight: u64 = self.in_flight[..latency as usize].iter().sum();
        for class in &Latency::ALL[latency as usize..] {
            in_flight += self.in_flight[*class as usize];
            if self.is_lower(*class) {
                room = room.min(self.most(*class).saturating_sub(in_flight));
            }
        }
        room
    }

    /// How many attempts of a latency class and those below it there may be at once. Never none: the only slot there
    /// is cannot be kept free.
    fn most(&self, latency: Latency) -> u64 {
        let kept = (self.slots / RESERVE_SHARE).max(1) * self.higher(latency);
        self.slots.saturating_sub(kept).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Latency::{Background, Critical, Standard};

    fn reserve(slots: u32, served: &[Latency], in_flight: [u32; LATENCIES]) -> Reserve {
        let mut reserve = Reserve::default();
        reserve.serve(served.iter().copied());
        reserve.replace(&Offer::default(), &Offer { slots, in_flight });
        reserve
    }

    #[test]
    fn nothing_is_kept_where_nothing_higher_is_served() {
        let rooms = |served: &[Latency]| {
            let reserve = reserve(8, served, [6, 0, 0]);
            Latency::ALL.map(|latency| reserve.room(latency))
        };
        assert_eq!(rooms(&[Background]), [u64::MAX; 3]);
        assert_eq!(rooms(&[Background, Standard]), [0, u64::MAX, u64::MAX]);
        assert_eq!(rooms(&[Background, Critical]), [0, 0, u64::MAX]);
    }

    #[test]
    fn a_quarter_is_kept_for_each_higher_class() {
        let most = |slots| {
            let reserve = reserve(slots, &Latency::ALL, [0, 0, 0]);
            [reserve.room(Background), reserve.room(Standard)]
        };
        assert_eq!(most(1), [1, 1]);
        assert_eq!(most(2), [1, 1]);
        assert_eq!(most(3), [1, 2]);
        assert_eq!(most(4), [2, 3]);
        assert_eq!(most(8), [4, 6]);
        assert_eq!(most(100), [50, 75]);
    }

    #[test]
    fn what_is_below_counts_and_what_is_above_does_not() {
        let reserve = reserve(8, &Latency::ALL, [3, 2, 40]);
        assert_eq!(reserve.room(Background), 1);
        assert_eq!(reserve.room(Standard), 1);
        assert_eq!(reserve.room(Critical), u64::MAX);
    }

    #[test]
    fn a_worker_that_goes_takes_along_what_it_brought() {
        let mut reserve = reserve(8, &Latency::ALL, [1, 0, 0]);
        let other = Offer {
            slots: 8,
            in_flight: [5, 0, 0],
        };
        reserve.replace(&Offer::default(), &other);
        assert_eq!(reserve.room(Background), 2);
        reserve.replace(&other, &Offer::default());
        assert_eq!(reserve.room(Background), 3);
    }
}
