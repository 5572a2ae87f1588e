//! Submitters' sessions: which numbered submissions were accepted, and what was answered.

use crate::ids::{Millis, SessionId};
use crate::record::Acceptance;
use std::collections::{BTreeMap, VecDeque};

/// Answers remembered for each session; an SDK keeps fewer frames unacknowledged.
const ANSWERS_MAX: usize = 256;

/// An answer, small when every task was new: numbers of one frame follow each other.
#[derive(Debug, Clone)]
enum Answer {
    Range { first: u64, count: u32 },
    Whole(Box<Acceptance>),
}

impl Answer {
    fn new(acceptance: &Acceptance) -> Self {
        let first = acceptance.tasks.first().copied().unwrap_or(0);
        let follows = |(at, id): (usize, &u64)| first.checked_add(at as u64) == Some(*id);
        let plain = first > 0
            && acceptance.refusals.is_empty()
            && acceptance.existing.is_empty()
            && acceptance.tasks.iter().enumerate().all(follows);
        match u32::try_from(acceptance.tasks.len()) {
            Ok(count) if plain => Self::Range { first, count },
            _ => Self::Whole(Box::new(acceptance.clone())),
        }
    }

    fn acceptance(&self) -> Acceptance {
        match self {
            Self::Range { first, count } => Acceptance {
                tasks: (0..u64::from(*count)).map(|at| first + at).collect(),
                ..Acceptance::default()
            },
            Self::Whole(acceptance) => Acceptance::clone(acceptance),
        }
    }
}

/// One session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) last_used: Millis,
    /// The highest number accepted.
    pub(crate) last: u64,
    answers: VecDeque<(u64, Answer)>,
}

impl Session {
    /// What was answered to a submission, if that is still known.
    pub(crate) fn answer(&self, sequence: u64) -> Option<Acceptance> {
        let at = self
            .answers
            .binary_search_by_key(&sequence, |(number, _)| *number)
            .ok()?;
        self.answers.get(at).map(|(_, answer)| answer.acceptance())
    }

    /// Everything that is remembered, for a snapshot.
    pub(crate) fn answers(&self) -> Vec<(u64, Acceptance)> {
        self.answers
            .iter()
            .map(|(number, answer)| (*number, answer.acceptance()))
            .collect()
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Sessions made since this was taken last; their end has to be watched.
    pub(crate) made: Vec<SessionId>,
}

impl Sessions {
    /// Remembers an answer.
    pub(crate) fn accepted(
        &mut self,
        id: SessionId,
        sequence: u64,
        acceptance: &Acceptance,
        time: Millis,
    ) {
        let made = &mut self.made;
        let session = self.sessions.entry(id).or_insert_with(|| {
            made.push(id);
            Session::default()
        });
        session.last_used = session.last_used.max(time);
        if sequence <= session.last {
            return;
        }
        session.last = sequence;
        if session.answers.len() == ANSWERS_MAX {
            session.answers.pop_front();
        }
        session
            .answers
            .push_back((sequence, Answer::new(acceptance)));
    }

    /// What was answered to a submission of a session, if that is still known.
    pub(crate) fn answer(&self, id: &SessionId, sequence: u64) -> Option<Acceptance> {
        self.sessions.get(id)?.answer(sequence)
    }

    /// The highest number accepted from a session.
    pub(crate) fn last(&self, id: &SessionId) -> u64 {
        self.sessions.get(id).map_or(0, |session| session.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_remembered_as_they_were() {
        let mut sessions = Sessions::default();
        let plain = Acceptance {
            tasks: vec![7, 8, 9],
            ..Acceptance::default()
        };
        let mixed = Acceptance {
            tasks: vec![3, 10],
            existing: vec![0],
            ..Acceptance::default()
        };
        sessions.accepted([1; 16], 1, &plain, 5);
        sessions.accepted([1; 16], 2, &mixed, 6);
        let session = &sessions.sessions[&[1; 16]];
        assert_eq!(session.answer(1), Some(plain));
        assert_eq!(session.answer(2), Some(mixed));
        assert_eq!(session.answer(3), None);
        for sequence in 3..=300 {
            sessions.accepted([1; 16], sequence, &Acceptance::default(), 7);
        }
        let session = &sessions.sessions[&[1; 16]];
        assert_eq!(session.answer(44), None, "only the last 256 are kept");
        assert_eq!(session.answer(45), Some(Acceptance::default()));
        assert_eq!(session.last, 300);
    }
}
