//! The ledger's durable store: SQLite, one transaction a posting, synced before it is answered.

use crate::domain::flight::Flight;
use crate::domain::journal::{Account, Entry, Kind};
use crate::domain::money::Minor;
use crate::domain::rating::rate;
use crate::domain::tariff::Tariff;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::Path;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS postings (
    posting TEXT PRIMARY KEY, airline TEXT NOT NULL, token INTEGER NOT NULL,
    flights INTEGER NOT NULL, entries INTEGER NOT NULL, charged INTEGER NOT NULL,
    repeated INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS flights (
    run TEXT NOT NULL, row INTEGER NOT NULL, posting TEXT NOT NULL REFERENCES postings (posting),
    PRIMARY KEY (run, row)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    entry INTEGER PRIMARY KEY, posting TEXT NOT NULL REFERENCES postings (posting),
    row INTEGER NOT NULL, month INTEGER NOT NULL CHECK (month BETWEEN 1 AND 12), kind TEXT NOT NULL,
    debit TEXT NOT NULL, credit TEXT NOT NULL CHECK (credit <> debit),
    amount INTEGER NOT NULL CHECK (amount > 0), reverses INTEGER REFERENCES entries (entry)
) STRICT;
CREATE TABLE IF NOT EXISTS fences (
    posting TEXT PRIMARY KEY, token INTEGER NOT NULL, refused INTEGER NOT NULL DEFAULT 0
) STRICT;
";

/// Who asks: the attempt's fencing token. A posting obeys the highest token it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence(pub(crate) i64);

/// What a posting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posted {
    pub(crate) flights: i32,
    pub(crate) entries: i32,
    pub(crate) charged: Minor,
    /// It was there already.
    pub(crate) repeated: bool,
}

/// Why a posting was refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// A later attempt has the posting.
    #[error("posting {posting} belongs to the attempt with token {newer}, not {token}")]
    Fenced {
        posting: String,
        token: i64,
        newer: i64,
    },
    /// A flight of the request was posted by another posting.
    #[error("flight in row {row} was posted by {posting} already")]
    FlightPosted { row: i32, posting: String },
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// An amount does not fit.
    #[error(transparent)]
    Overflow(#[from] crate::domain::money::Overflow),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] rusqlite::Error),
}

/// The balance sheet and its counts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TrialBalance {
    /// Account, debits, credits; by name.
    pub(crate) accounts: Vec<(String, i64, i64)>,
    pub(crate) entries: i64,
    pub(crate) postings: i64,
    pub(crate) repeated: i64,
    pub(crate) fenced: i64,
    /// Airline, month, charged, flights.
    pub(crate) airline_months: Vec<(String, i32, i64, i64)>,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        Self::prepare(Connection::open(path)?)
    }

    #[cfg(test)]
    pub(crate) fn in_memory() -> rusqlite::Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(connection: Connection) -> rusqlite::Result<Self> {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        // FULL: a commit is on the disk before it is answered, in WAL mode too.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection })
    }

    /// Prices and books flights of one airline under one name, once.
    pub(crate) fn post(
        &mut self,
        posting: &str,
        airline: &str,
        flights: &[Flight],
        fence: Fence,
        tariff: &Tariff,
    ) -> Result<Posted, PostError> {
        check(posting, airline, flights)?;
        let tx = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        match take_fence(&tx, posting, fence) {
            Err(fenced @ PostError::Fenced { .. }) => {
                tx.commit()?; // keeps the count of refusals
                return Err(fenced);
            }
            other => other?,
        }
        if let Some(earlier) = repeated(&tx, posting)? {
            tx.commit()?;
            return Ok(earlier);
        }
        let posted = book(&tx, posting, airline, flights, fence, tariff)?;
        tx.commit()?;
        Ok(posted)
    }

    pub(crate) fn trial_balance(&self) -> rusqlite::Result<TrialBalance> {
        let count = |sql: &str| {
            self.connection
                .query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        Ok(TrialBalance {
            accounts: self.accounts()?,
            entries: count("SELECT count(*) FROM entries")?,
            postings: count("SELECT count(*) FROM postings")?,
            repeated: count("SELECT coalesce(sum(repeated), 0) FROM postings")?,
            fenced: count("SELECT coalesce(sum(refused), 0) FROM fences")?,
            airline_months: self.airline_months()?,
        })
    }

    fn accounts(&self) -> rusqlite::Result<Vec<(String, i64, i64)>> {
        let sql = "SELECT account, sum(debit), sum(credit) FROM (
                SELECT debit AS account, amount AS debit, 0 AS credit FROM entries
                UNION ALL SELECT credit, 0, amount FROM entries
            ) GROUP BY account ORDER BY account";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    }

    fn airline_months(&self) -> rusqlite::Result<Vec<(String, i32, i64, i64)>> {
        let sql = "SELECT p.airline, e.month,
                sum(CASE WHEN e.debit LIKE 'receivable:%' THEN e.amount ELSE 0 END)
                    - sum(CASE WHEN e.credit LIKE 'receivable:%' THEN e.amount ELSE 0 END),
                count(DISTINCT e.row)
            FROM entries e JOIN postings p USING (posting) GROUP BY 1, 2 ORDER BY 1, 2";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
        rows.collect()
    }
}

fn check(posting: &str, airline: &str, flights: &[Flight]) -> Result<(), PostError> {
    if posting.split('/').next().is_none_or(str::is_empty) {
        return Err(PostError::Invalid(
            "posting_id is empty; it names run, date and airline".into(),
        ));
    }
    for flight in flights {
        if flight.airline != airline {
            let (row, found) = (flight.row, &flight.airline);
            return Err(PostError::Invalid(format!(
                "row {row} is of {found}, not of {airline}"
            )));
        }
        if flight.month() == 0 {
            return Err(PostError::Invalid(format!(
                "row {} has no date",
                flight.row
            )));
        }
    }
    Ok(())
}

/// Remembers the highest token of a posting and refuses a lower one.
fn take_fence(tx: &Transaction<'_>, posting: &str, fence: Fence) -> Result<(), PostError> {
    let newer: Option<i64> = tx
        .prepare_cached("SELECT token FROM fences WHERE posting = ?1 AND token > ?2")?
        .query_row(params![posting, fence.0], |row| row.get(0))
        .optional()?;
    if let Some(newer) = newer {
        tx.prepare_cached("UPDATE fences SET refused = refused + 1 WHERE posting = ?1")?
            .execute([posting])?;
        return Err(PostError::Fenced {
            posting: posting.to_owned(),
            token: fence.0,
            newer,
        });
    }
    tx.prepare_cached(
        "INSERT INTO fences (posting, token) VALUES (?1, ?2)
         ON CONFLICT (posting) DO UPDATE SET token = excluded.token",
    )?
    .execute(params![posting, fence.0])?;
    Ok(())
}

fn repeated(tx: &Transaction<'_>, posting: &str) -> Result<Option<Posted>, PostError> {
    let earlier = tx
        .prepare_cached("SELECT flights, entries, charged FROM postings WHERE posting = ?1")?
        .query_row([posting], |row| {
            let charged = Minor::new(row.get(2)?);
            Ok(Posted {
                flights: row.get(0)?,
                entries: row.get(1)?,
                charged,
                repeated: true,
            })
        })
        .optional()?;
    if earlier.is_some() {
        tx.prepare_cached("UPDATE postings SET repeated = repeated + 1 WHERE posting = ?1")?
            .execute([posting])?;
    }
    Ok(earlier)
}

fn book(
    tx: &Transaction<'_>,
    posting: &str,
    airline: &str,
    flights: &[Flight],
    fence: Fence,
    tariff: &Tariff,
) -> Result<Posted, PostError> {
    let rated: Vec<(&Flight, Vec<Entry>)> = flights
        .iter()
        .map(|flight| rate(flight, tariff).map(|entries| (flight, entries)))
        .collect::<Result<_, _>>()?;
    let charged = charged_to(airline, rated.iter().flat_map(|(_, entries)| entries))?;
    let entries = rated
        .iter()
        .map(|(_, entries)| entries.len())
        .sum::<usize>();
    let posted = Posted {
        flights: i32::try_from(flights.len()).unwrap_or(i32::MAX),
        entries: i32::try_from(entries).unwrap_or(i32::MAX),
        charged,
        repeated: false,
    };
    tx.prepare_cached(
        "INSERT INTO postings (posting, airline, token, flights, entries, charged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        posting,
        airline,
        fence.0,
        posted.flights,
        posted.entries,
        charged.cents()
    ])?;
    for (flight, entries) in &rated {
        book_flight(tx, posting, flight, entries)?;
    }
    Ok(posted)
}

/// What the airline owes for these entries.
fn charged_to<'a>(
    airline: &str,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<Minor, PostError> {
    let receivable = Account::Receivable(airline.to_owned());
    let mut charged = Minor::ZERO;
    for entry in entries {
        if *entry.debit() == receivable {
            charged = charged.plus(entry.amount())?;
        }
        if *entry.credit() == receivable {
            charged = charged.plus(entry.amount().times(-1)?)?;
        }
    }
    Ok(charged)
}

fn book_flight(
    tx: &Transaction<'_>,
    posting: &str,
    flight: &Flight,
    entries: &[Entry],
) -> Result<(), PostError> {
    let run = posting.split('/').next().unwrap_or_default();
    let taken = tx
        .prepare_cached(
            "INSERT INTO flights (run, row, posting) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![run, flight.row, posting])?;
    if taken == 0 {
        let other = tx.query_row(
            "SELECT posting FROM flights WHERE run = ?1 AND row = ?2",
            params![run, flight.row],
            |row| row.get(0),
        )?;
        return Err(PostError::FlightPosted {
            row: flight.row,
            posting: other,
        });
    }
    let mut insert = tx.prepare_cached(
        "INSERT INTO entries (posting, row, month, kind, debit, credit, amount, reverses)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut previous = None;
    for entry in entries {
        let reverses = if entry.kind() == Kind::Reversal {
            previous
        } else {
            None
        };
        insert.execute(params![
            posting,
            flight.row,
            flight.month(),
            entry.kind().name(),
            entry.debit().to_string(),
            entry.credit().to_string(),
            entry.amount().cents(),
            reverses,
        ])?;
        previous = Some(tx.last_insert_rowid());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flight::Aircraft;

    fn tariff() -> Tariff {
        Tariff::parse(include_str!("../../tariff.toml")).expect("the committed tariff")
    }

    fn flights(rows: std::ops::Range<i32>) -> Vec<Flight> {
        rows.map(|row| Flight {
            row,
            airline: "UA".into(),
            date: "2013-02-03".into(),
            distance_miles: 500,
            cancelled: row % 5 == 0,
            aircraft: Some(Aircraft {
                seats: 100 + row,
                engines: 2,
                engine: "Turbo-fan".into(),
            }),
            ..Flight::default()
        })
        .collect()
    }

    fn balanced(store: &Store) -> TrialBalance {
        let balance = store.trial_balance().expect("reads");
        let debit: i64 = balance.accounts.iter().map(|a| a.1).sum();
        let credit: i64 = balance.accounts.iter().map(|a| a.2).sum();
        assert_eq!(debit, credit);
        balance
    }

    #[test]
    fn posting_is_booked_once_however_often_it_is_asked_for() {
        let (mut store, tariff) = (Store::in_memory().expect("opens"), tariff());
        let first = store
            .post("r/d/UA", "UA", &flights(0..10), Fence(1), &tariff)
            .expect("posts");
        let again = store
            .post("r/d/UA", "UA", &flights(0..10), Fence(2), &tariff)
            .expect("repeats");
        assert_eq!(
            again,
            Posted {
                repeated: true,
                ..first
            }
        );
        let balance = balanced(&store);
        assert_eq!(
            (balance.postings, balance.repeated, balance.fenced),
            (1, 1, 0)
        );
        assert_eq!(balance.entries, i64::from(first.entries));
        assert_eq!(
            balance.airline_months,
            [("UA".into(), 2, first.charged.cents(), 10)]
        );
    }

    #[test]
    fn older_attempt_is_fenced_and_writes_nothing() {
        let (mut store, tariff) = (Store::in_memory().expect("opens"), tariff());
        store
            .post("r/d/UA", "UA", &flights(0..10), Fence(9), &tariff)
            .expect("posts");
        let late = store.post("r/d/UA", "UA", &flights(0..10), Fence(8), &tariff);
        assert!(matches!(
            late,
            Err(PostError::Fenced {
                newer: 9,
                token: 8,
                ..
            })
        ));
        let balance = balanced(&store);
        assert_eq!(
            (balance.postings, balance.repeated, balance.fenced),
            (1, 0, 1)
        );
    }

    #[test]
    fn flight_under_two_names_is_refused_whole() {
        let (mut store, tariff) = (Store::in_memory().expect("opens"), tariff());
        store
            .post("r/d/UA", "UA", &flights(0..10), Fence(1), &tariff)
            .expect("posts");
        let before = balanced(&store);
        let twice = store.post("r/e/UA", "UA", &flights(9..12), Fence(2), &tariff);
        assert!(matches!(twice, Err(PostError::FlightPosted { row: 9, .. })));
        assert_eq!(balanced(&store), before);
    }

    #[test]
    fn foreign_flight_is_refused() {
        let (mut store, tariff) = (Store::in_memory().expect("opens"), tariff());
        let mixed = store.post("r/d/DL", "DL", &flights(0..2), Fence(1), &tariff);
        assert!(matches!(mixed, Err(PostError::Invalid(_))));
        assert_eq!(balanced(&store).postings, 0);
    }

    #[test]
    fn overflow_rolls_everything_back() {
        let (mut store, mut absurd) = (Store::in_memory().expect("opens"), tariff());
        absurd.landing.per_seat = i64::MAX;
        let result = store.post("r/d/UA", "UA", &flights(0..2), Fence(1), &absurd);
        assert!(matches!(result, Err(PostError::Overflow(_))));
        assert_eq!(balanced(&store), TrialBalance::default());
    }
}
