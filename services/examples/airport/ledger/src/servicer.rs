//! The services on the wire: messages in, domain calls, messages out.

use crate::domain::flight::{Aircraft, Flight, Weather};
use crate::domain::intake::{Quarantine, parse};
use crate::domain::tariff::Tariff;
use crate::store::{Fence, PostError, Store};
use plait::pb::airport::v1 as pb;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Request, Response, Status};

/// Parses rows. It keeps nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intake;

#[tonic::async_trait]
impl pb::intake_service_server::IntakeService for Intake {
    async fn parse_flights(
        &self,
        request: Request<pb::ParseFlightsRequest>,
    ) -> Result<Response<pb::ParseFlightsResponse>, Status> {
        let request = request.into_inner();
        let mut response = pb::ParseFlightsResponse::default();
        for (number, row) in (request.first_row..).zip(&request.rows) {
            match parse(number, row) {
                Ok(flight) => response.flights.push(to_wire(flight)),
                Err(quarantine) => response.quarantined.push(quarantined(number, quarantine)),
            }
        }
        Ok(Response::new(response))
    }
}

/// The ledger: one store behind a lock, used off the runtime's threads.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    store: Arc<Mutex<Store>>,
    tariff: Arc<Tariff>,
}

impl Ledger {
    pub(crate) fn new(store: Store, tariff: Tariff) -> Self {
        Self {
            store: Arc::new(Mutex::new(store)),
            tariff: Arc::new(tariff),
        }
    }

    /// Runs blocking work on the store.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        // A poisoned lock only says that another posting panicked; its transaction was rolled back.
        tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|error| Status::internal(format!("the ledger's store: {error}")))
    }
}

#[tonic::async_trait]
impl pb::ledger_service_server::LedgerService for Ledger {
    async fn post_flights(
        &self,
        request: Request<pb::PostFlightsRequest>,
    ) -> Result<Response<pb::PostFlightsResponse>, Status> {
        let fence = fence(&request)?;
        let request = request.into_inner();
        let tariff = Arc::clone(&self.tariff);
        let posted = self
            .with_store(move |store| {
                let flights: Vec<Flight> = request.flights.into_iter().map(from_wire).collect();
                store.post(
                    &request.posting_id,
                    &request.airline,
                    &flights,
                    fence,
                    &tariff,
                )
            })
            .await?
            .map_err(|error| status(&error))?;
        Ok(Response::new(pb::PostFlightsResponse {
            flights: posted.flights,
            entries: posted.entries,
            charged_minor: posted.charged.cents(),
            repeated: posted.repeated,
        }))
    }

    async fn get_trial_balance(
        &self,
        _: Request<pb::GetTrialBalanceRequest>,
    ) -> Result<Response<pb::GetTrialBalanceResponse>, Status> {
        let balance = self
            .with_store(|store| store.trial_balance())
            .await?
            .map_err(|error| status(&PostError::Store(error)))?;
        let accounts = balance
            .accounts
            .into_iter()
            .map(|(account, debit_minor, credit_minor)| pb::AccountBalance {
                account,
                debit_minor,
                credit_minor,
            });
        let months =
            balance
                .airline_months
                .into_iter()
                .map(
                    |(airline, month, charged_minor, flights)| pb::AirlineMonth {
                        airline,
                        month,
                        charged_minor,
                        flights,
                    },
                );
        Ok(Response::new(pb::GetTrialBalanceResponse {
            accounts: accounts.collect(),
            entries: balance.entries,
            postings: balance.postings,
            repeated: balance.repeated,
            fenced: balance.fenced,
            airline_months: months.collect(),
        }))
    }
}

/// The attempt's fencing token, which the mesh puts into the metadata.
fn fence<T>(request: &Request<T>) -> Result<Fence, Status> {
    let token = request
        .metadata()
        .get("plait-fencing-token")
        .and_then(|v| v.to_str().ok());
    let token = token.and_then(|t| t.parse().ok()).map(Fence);
    token.ok_or_else(|| {
        Status::failed_precondition(
            "postings are made as durable tasks only: there is no plait-fencing-token",
        )
    })
}

fn status(error: &PostError) -> Status {
    match error {
        PostError::Fenced { .. } => Status::aborted(error.to_string()),
        PostError::Invalid(_) => Status::invalid_argument(error.to_string()),
        PostError::FlightPosted { .. } => Status::already_exists(error.to_string()),
        PostError::Overflow(_) => Status::out_of_range(error.to_string()),
        PostError::Store(_) => Status::unavailable(error.to_string()),
    }
}

fn quarantined(row: i32, held: Quarantine) -> pb::Quarantined {
    pb::Quarantined {
        row,
        reason: held.reason.name().to_owned(),
        detail: held.detail,
        flight: held.flight.map(|flight| to_wire(*flight)),
    }
}

fn to_wire(flight: Flight) -> pb::Flight {
    pb::Flight {
        row: flight.row,
        date: flight.date,
        airline: flight.airline,
        number: flight.number,
        tail_number: flight.tail_number,
        origin: flight.origin,
        destination: flight.destination,
        time_hour: flight.time_hour,
        departure_delay_minutes: flight.departure_delay_minutes,
        arrival_delay_minutes: flight.arrival_delay_minutes,
        distance_miles: flight.distance_miles,
        cancelled: flight.cancelled,
        aircraft: None,
        weather: None,
    }
}

fn from_wire(flight: pb::Flight) -> Flight {
    Flight {
        row: flight.row,
        date: flight.date,
        airline: flight.airline,
        number: flight.number,
        tail_number: flight.tail_number,
        origin: flight.origin,
        destination: flight.destination,
        time_hour: flight.time_hour,
        departure_delay_minutes: flight.departure_delay_minutes,
        arrival_delay_minutes: flight.arrival_delay_minutes,
        distance_miles: flight.distance_miles,
        cancelled: flight.cancelled,
        aircraft: flight.aircraft.map(|a| Aircraft {
            seats: a.seats,
            engines: a.engines,
            engine: a.engine,
        }),
        weather: flight.weather.map(|w| Weather {
            visibility_centimiles: w.visibility_centimiles,
            wind_centimph: w.wind_centimph,
        }),
    }
}
