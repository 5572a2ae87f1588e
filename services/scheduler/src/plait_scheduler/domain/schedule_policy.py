"""The schedule that a method's policy declares: checked as any schedule, and against the policy."""

from plait_scheduler.domain.policy import KeyKind, MethodPolicy
from plait_scheduler.domain.policy_fields import PolicyFields
from plait_scheduler.domain.schedule import Schedule
from plait_scheduler.domain.schedule_fields import NAME_MAX, ScheduleFields, check

_OPTION = "schedule"
# Keys that an empty message does not have; a number has one, which is 0.
_EMPTY_KINDS = (KeyKind.STRING, KeyKind.BYTES)


def compile_schedule(fields: PolicyFields, policy: MethodPolicy) -> Schedule | None:
    """None where none is declared. Faults go to the fields."""
    if not fields.has(_OPTION):
        return None
    if not fields.of_method(_OPTION):
        fields.refuse(_OPTION, "is of a method: the methods of a service have a schedule each")
        return None
    _check_keys(fields, policy)
    known = len(fields.violations)
    schedule, faults = check(_read(fields, policy))
    if len(fields.violations) > known:
        # What could not be read is no fault of another kind as well.
        return None
    for fault in faults:
        if fault.field == "name":
            text = f"the method's full name is longer than {NAME_MAX} characters"
            fields.refuse(_OPTION, text)
        else:
            fields.refuse(f"{_OPTION}.{fault.field}", fault.description)
    return schedule


def _read(fields: PolicyFields, policy: MethodPolicy) -> ScheduleFields:
    def duration(name: str) -> int | None:
        path = f"{_OPTION}.{name}"
        return fields.duration(path, 0, low=0) if fields.has(path) else None

    return ScheduleFields(
        name=policy.method.lstrip("/").replace("/", "."),
        method=policy.method,
        cron=fields.text(f"{_OPTION}.cron"),
        every_ms=duration("every"),
        timezone=fields.text(f"{_OPTION}.timezone"),
        jitter_ms=duration("jitter"),
        overlap=fields.enum(f"{_OPTION}.overlap"),
        missed=fields.enum(f"{_OPTION}.missed"),
        catch_up_ms=duration("catch_up_window"),
        managed=True,
    )


def _check_keys(fields: PolicyFields, policy: MethodPolicy) -> None:
    """Its request is the default message. The idempotency key is that of the run."""
    for name, key in (("ordering_key", policy.ordering_key), ("limit_key", policy.limit_key)):
        if key is not None and key.kind in _EMPTY_KINDS:
            text = f'the {name.replace("_", " ")} "{key.path}" is empty in the default message'
            fields.refuse(_OPTION, f"{text}, which is the request of every run")
