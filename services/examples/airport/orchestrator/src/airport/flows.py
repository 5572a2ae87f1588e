"""The orchestration: one flow for the year, one for each day, batches of flights fanned out.

Ordinary handlers of an ordinary service. The stubs are the generated ones on a durable channel, so
every call is a child that is recorded: a flow that is run again gets the answers that are there and
asks only for the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airport.data import days, flight_rows
from airport.v1 import settlement_pb2 as pb
from airport.v1 import settlement_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import grpc

DEFAULT_BATCH = 100
"""Flights in a batch where the request names no number."""


class Settlement(rpc.SettlementServiceServicer):
    """airport.v1.SettlementService over a durable channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._days = rpc.SettlementServiceStub(channel)
        self._intake = rpc.IntakeServiceStub(channel)
        self._enrichment = rpc.EnrichmentServiceStub(channel)
        self._ledger = rpc.LedgerServiceStub(channel)

    async def SettleYear(
        self, request: pb.SettleYearRequest, context: object
    ) -> pb.SettleYearResponse:
        """Settles the days side by side and folds what they came to."""
        batch = request.batch_size or DEFAULT_BATCH
        requests = [
            pb.SettleDayRequest(
                settlement_id=f"{request.run}/{day.date}",
                date=day.date,
                first_row=day.first_row,
                row_count=day.row_count,
                batch_size=batch,
            )
            for day in days(request.flights_max)
        ]
        answers = await asyncio.gather(*(self._days.SettleDay(day) for day in requests))
        return _fold_year(list(zip((day.date for day in requests), answers, strict=True)))

    async def SettleDay(
        self, request: pb.SettleDayRequest, context: object
    ) -> pb.SettleDayResponse:
        """Parses and enriches the day's rows in batches, then posts them by airline."""
        run = request.settlement_id.partition("/")[0]
        result = _Day(rows=request.row_count)
        batches = _batches(request)
        parsed = await asyncio.gather(*(self._intake.ParseFlights(batch) for batch in batches))
        to_enrich = [list(_to_settle(answer, result)) for answer in parsed]
        enriched = await asyncio.gather(
            *(
                self._enrichment.EnrichFlights(pb.EnrichFlightsRequest(flights=flights))
                for flights in to_enrich
                if flights
            )
        )
        postings = list(_postings(run, request.date, enriched))
        posted = await asyncio.gather(*(self._ledger.PostFlights(one) for one in postings))
        result.tasks += len(batches) + len(enriched) + len(postings)
        for posting, answer in zip(postings, posted, strict=True):
            result.add(posting.airline, answer)
        return result.response()


@dataclass
class _Day:
    """What a day comes to, while it is being settled."""

    rows: int
    tasks: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    airlines: list[pb.AirlineTotals] = field(default_factory=list)

    def add(self, airline: str, posted: pb.PostFlightsResponse) -> None:
        self.airlines.append(
            pb.AirlineTotals(
                airline=airline, flights=posted.flights, charged_minor=posted.charged_minor
            )
        )

    def response(self) -> pb.SettleDayResponse:
        totals = pb.Totals(
            rows=self.rows,
            posted=sum(a.flights for a in self.airlines),
            quarantined=self.reasons.total(),
            quarantined_by_reason=dict(self.reasons),
            charged_minor=sum(a.charged_minor for a in self.airlines),
            tasks=self.tasks,
        )
        return pb.SettleDayResponse(totals=totals, airlines=self.airlines)


def _batches(request: pb.SettleDayRequest) -> list[pb.ParseFlightsRequest]:
    end = request.first_row + request.row_count
    rows = flight_rows()
    return [
        pb.ParseFlightsRequest(
            first_row=first, rows=rows[first : min(first + request.batch_size, end)]
        )
        for first in range(request.first_row, end, request.batch_size)
    ]


def _to_settle(parsed: pb.ParseFlightsResponse, result: _Day) -> Iterator[pb.Flight]:
    """The flights to book: those that flew, and the cancelled ones, to be reversed."""
    yield from parsed.flights
    for held in parsed.quarantined:
        result.reasons[held.reason] += 1
        if held.flight.cancelled:
            yield held.flight


def _postings(
    run: str, date: str, enriched: Iterable[pb.EnrichFlightsResponse]
) -> Iterator[pb.PostFlightsRequest]:
    by_airline: defaultdict[str, list[pb.Flight]] = defaultdict(list)
    for answer in enriched:
        for flight in answer.flights:
            by_airline[flight.airline].append(flight)
    for airline in sorted(by_airline):
        yield pb.PostFlightsRequest(
            posting_id=f"{run}/{date}/{airline}", airline=airline, flights=by_airline[airline]
        )


def _fold_year(answers: list[tuple[str, pb.SettleDayResponse]]) -> pb.SettleYearResponse:
    totals = pb.Totals(tasks=len(answers) + 1)
    reasons: Counter[str] = Counter()
    airlines: dict[str, pb.AirlineTotals] = {}
    months: dict[int, pb.MonthTotals] = {}
    for date, answer in answers:
        day = answer.totals
        totals.rows += day.rows
        totals.posted += day.posted
        totals.quarantined += day.quarantined
        totals.charged_minor += day.charged_minor
        totals.tasks += day.tasks
        reasons.update(day.quarantined_by_reason)
        number = int(date[5:7])
        month = months.setdefault(number, pb.MonthTotals(month=number))
        month.flights += day.posted
        month.charged_minor += day.charged_minor
        for one in answer.airlines:
            total = airlines.setdefault(one.airline, pb.AirlineTotals(airline=one.airline))
            total.flights += one.flights
            total.charged_minor += one.charged_minor
    totals.quarantined_by_reason.update(reasons)
    return pb.SettleYearResponse(
        totals=totals,
        airlines=[airlines[code] for code in sorted(airlines)],
        months=[months[number] for number in sorted(months)],
        days=len(answers),
    )
