"""The schedule service: tasks that begin by themselves."""

import asyncio
import uuid
from collections.abc import Callable
from typing import NoReturn

import grpc

from plait import errors
from plait.v1 import schedule_service_pb2 as pb
from plait.v1 import schedule_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.broker.schedules import to_fields, to_message, to_status
from plait_scheduler.broker.submitter import Submitter
from plait_scheduler.domain import schedule_decision as decision
from plait_scheduler.domain.schedule import Schedule, State
from plait_scheduler.domain.schedule_fields import Fault, check
from plait_scheduler.domain.schedule_times import Times
from plait_scheduler.schedules.book import (
    SCHEDULES_MAX,
    Book,
    NoScheduleError,
    TooManySchedulesError,
    times_of,
)
from plait_scheduler.schedules.records import Record
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import Context, abort, invalid, pass_on, too_many

NEXT_TIMES_MAX = 100
PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000
NOTE_MAX = 1000
REQUEST_ID_MAX = 64
BACKFILL_TIMES_MAX = 10_000
# Of one schedule at once.
BACKFILLS_MAX = 10


class ScheduleServicer(pb_grpc.ScheduleServiceServicer):
    """Answers from the book, and changes it."""

    def __init__(
        self,
        book: Book,
        submitter: Submitter,
        doors: Doors,
        now_ms: Callable[[], int],
    ) -> None:
        self._book = book
        self._submitter = submitter
        self._doors = doors
        self._now_ms = now_ms

    async def PutSchedule(
        self, request: pb.PutScheduleRequest, context: Context
    ) -> pb.PutScheduleResponse:
        """Checks, then writes."""
        await self._check_ready(context)
        schedule, faults = check(to_fields(request.schedule))
        if not 0 <= request.next_times <= NEXT_TIMES_MAX:
            faults.append(Fault("next_times", f"is not within 0 to {NEXT_TIMES_MAX}"))
        if schedule is None or faults:
            await invalid(context, faults, "schedule.")
        name = schedule.name
        known = self._known(name)
        if known is not None and known.schedule.managed:
            await _conflict(context, f"the contract declares schedule {name}: change it there")
        if known is not None and request.must_not_exist:
            await _conflict(context, f"there is a schedule {name}")
        await self._check_request(schedule, context)
        if request.validate_only:
            now_ms = self._now_ms()
            record = Record(schedule, State(now_ms, now_ms))
            entry = _message(record, times_of(schedule), request.next_times)
            return pb.PutScheduleResponse(entry=entry, created=known is None)
        try:
            created = await self._book.put(schedule)
        except TooManySchedulesError:
            await too_many(context, "schedules", SCHEDULES_MAX)
        except VersionMismatchError:
            await _contended(context, name)
        entry = self._entry(self._book.get(name), request.next_times)
        return pb.PutScheduleResponse(entry=entry, created=created)

    async def GetSchedule(
        self, request: pb.GetScheduleRequest, context: Context
    ) -> pb.GetScheduleResponse:
        """As it is now."""
        await self._check_ready(context)
        count = request.next_times if request.HasField("next_times") else 1
        if not 0 <= count <= NEXT_TIMES_MAX:
            await invalid(context, [Fault("next_times", f"is not within 0 to {NEXT_TIMES_MAX}")])
        return pb.GetScheduleResponse(
            entry=self._entry(await self._get(request.name, context), count)
        )

    async def ListSchedules(
        self, request: pb.ListSchedulesRequest, context: Context
    ) -> pb.ListSchedulesResponse:
        """A page token is the last name before it."""
        await self._check_ready(context)
        size = request.page_size or PAGE_SIZE
        if not 0 < size <= PAGE_SIZE_MAX:
            await invalid(context, [Fault("page_size", f"is not within 0 to {PAGE_SIZE_MAX}")])
        rest = [each for each in self._book.all() if each.schedule.name > request.page_token]
        page = rest[:size]
        return pb.ListSchedulesResponse(
            entries=[self._entry(each, 1, with_request=False) for each in page],
            next_page_token=page[-1].schedule.name if len(rest) > size else "",
        )

    async def DeleteSchedule(
        self, request: pb.DeleteScheduleRequest, context: Context
    ) -> pb.DeleteScheduleResponse:
        """Not one of a contract."""
        await self._check_ready(context)
        record = await self._get(request.name, context)
        if record.schedule.managed:
            text = f"the contract declares schedule {request.name}: remove it there, or pause it"
            await _conflict(context, text)
        try:
            await self._book.delete(request.name)
        except NoScheduleError:
            await _not_found(context, request.name)
        except VersionMismatchError:
            await _contended(context, request.name)
        return pb.DeleteScheduleResponse()

    async def PauseSchedule(
        self, request: pb.PauseScheduleRequest, context: Context
    ) -> pb.PauseScheduleResponse:
        """Also one of a contract."""
        await _check_note(request.note, context)
        entry = await self._change(
            request.name, context, lambda state: decision.paused(state, request.note)
        )
        return pb.PauseScheduleResponse(entry=entry)

    async def ResumeSchedule(
        self, request: pb.ResumeScheduleRequest, context: Context
    ) -> pb.ResumeScheduleResponse:
        """Also one of a contract."""
        await _check_note(request.note, context)
        now_ms = self._now_ms()
        entry = await self._change(
            request.name, context, lambda state: decision.resumed(state, request.note, now_ms)
        )
        return pb.ResumeScheduleResponse(entry=entry)

    async def TriggerSchedule(
        self, request: pb.TriggerScheduleRequest, context: Context
    ) -> pb.TriggerScheduleResponse:
        """Answers when the task is durable."""
        await self._check_ready(context)
        if len(request.request_id) > REQUEST_ID_MAX:
            await invalid(context, [Fault("request_id", f"has over {REQUEST_ID_MAX} characters")])
        request_id = request.request_id or uuid.uuid4().hex
        try:
            task = await self._book.trigger(request.name, request_id)
        except NoScheduleError:
            await _not_found(context, request.name)
        except VersionMismatchError:
            await _contended(context, request.name)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.TriggerScheduleResponse(task=task)

    async def BackfillSchedule(
        self, request: pb.BackfillScheduleRequest, context: Context
    ) -> pb.BackfillScheduleResponse:
        """Writes down the range; the loop works through it."""
        await self._check_ready(context)
        record = await self._get(request.name, context)
        start_ms = request.start_time.ToMilliseconds()
        end_ms = request.end_time.ToMilliseconds()
        faults = []
        if not request.HasField("start_time"):
            faults.append(Fault("start_time", "is needed"))
        if not request.HasField("end_time") or end_ms < start_ms:
            faults.append(Fault("end_time", "is needed, and not before start_time"))
        if end_ms > self._now_ms():
            faults.append(Fault("end_time", "is in the future"))
        if len(record.state.backfills) >= BACKFILLS_MAX:
            await _conflict(context, f"{BACKFILLS_MAX} back-fills of it are under way")
        if faults:
            await invalid(context, faults)
        # Looking back over thousands of times takes a while.
        asked = await asyncio.to_thread(
            decision.backfill_of,
            record.schedule,
            self._book.times(request.name),
            start_ms,
            end_ms,
            BACKFILL_TIMES_MAX + 1,
        )
        if asked.left > BACKFILL_TIMES_MAX:
            text = f"there are more than {BACKFILL_TIMES_MAX} times"
            await invalid(context, [Fault("end_time", text)])
        if asked.left and not request.validate_only:
            await self._change(request.name, context, lambda state: decision.asked(state, asked))
        return pb.BackfillScheduleResponse(count=asked.left)

    async def _check_request(self, schedule: Schedule, context: Context) -> None:
        """What every run would be refused for is refused now."""
        try:
            refusal = await self._submitter.refusal(schedule.method, schedule.request)
        except grpc.aio.AioRpcError as error:
            refusal = error
        if refusal is not None:
            await pass_on(context, refusal)

    async def _change(
        self, name: str, context: Context, how: Callable[[State], State]
    ) -> pb.ScheduleEntry:
        await self._check_ready(context)
        try:
            return self._entry(await self._book.change(name, how), 1)
        except NoScheduleError:
            await _not_found(context, name)
        except VersionMismatchError:
            await _contended(context, name)

    def _entry(
        self, record: Record, next_times: int, *, with_request: bool = True
    ) -> pb.ScheduleEntry:
        times = self._book.times(record.schedule.name)
        return _message(record, times, next_times, with_request=with_request)

    async def _get(self, name: str, context: Context) -> Record:
        try:
            return self._book.get(name)
        except NoScheduleError:
            await _not_found(context, name)

    def _known(self, name: str) -> Record | None:
        try:
            return self._book.get(name)
        except NoScheduleError:
            return None

    async def _check_ready(self, context: Context) -> None:
        await self._doors.check(context)
        await self._book.load()


def _message(
    record: Record, times: Times, next_times: int, *, with_request: bool = True
) -> pb.ScheduleEntry:
    schedule, state = record.schedule, record.state
    upcoming = decision.next_runs(schedule, times, state, next_times)
    return pb.ScheduleEntry(
        schedule=to_message(schedule, with_request=with_request),
        status=to_status(schedule, state, upcoming),
    )


async def _check_note(note: str, context: Context) -> None:
    if len(note) > NOTE_MAX:
        await invalid(context, [Fault("note", f"has over {NOTE_MAX} characters")])


async def _not_found(context: Context, name: str) -> NoReturn:
    await abort(
        context,
        grpc.StatusCode.NOT_FOUND,
        errors.Reason.SCHEDULE_NOT_FOUND,
        f"there is no schedule {name}",
        {"schedule": name},
    )


async def _conflict(context: Context, text: str) -> NoReturn:
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.STATE_CONFLICT
    await abort(context, code, reason, text)


async def _contended(context: Context, name: str) -> NoReturn:
    code, reason = grpc.StatusCode.ABORTED, errors.Reason.VERSION_MISMATCH
    await abort(context, code, reason, f"others write schedule {name}", {"schedule": name})
