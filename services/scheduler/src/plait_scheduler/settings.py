"""Settings of the scheduler. Flag > environment (PLAIT_SCHEDULER_*) > default."""

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from plait_scheduler.domain.leadership import LEASE_MS, LEASE_MS_MAX, LEASE_MS_MIN


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'"{value}" is not host:port')
    return value


def _loopback(value: str) -> str:
    host = _address(value).rpartition(":")[0].strip("[]")
    if host == "localhost":
        return value
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f'"{value}" is not on loopback; there is no transport security yet')
    return value


class Settings(BaseSettings):
    """Every setting, with its default."""

    model_config = SettingsConfigDict(
        env_prefix="PLAIT_SCHEDULER_", frozen=True, extra="forbid", populate_by_name=True
    )

    # Where the broker is. PLAIT_ADDRESS serves as well, as for everybody else who talks to the
    # broker.
    broker: Annotated[str, AfterValidator(_address)] = Field(
        default="127.0.0.1:7420",
        validation_alias=AliasChoices("PLAIT_SCHEDULER_BROKER", "PLAIT_ADDRESS"),
    )
    # Where this process listens, on loopback. Port 0: any.
    listen: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1:7423"
    # Where metrics are served, as HTTP, on loopback. Port 0: any. None: nowhere.
    metrics_listen: Annotated[str, AfterValidator(_loopback)] | None = None
    # Development: contracts may change in ways that break tasks in flight; reflection is on.
    dev: bool = False
    # How often figures are observed, in milliseconds, and so how often windows may change.
    figures_interval_ms: int = Field(default=1000, ge=50, le=60_000)
    # How long this one keeps the lead when the broker does not hear of it, in milliseconds: so long
    # after its death another scheduler takes over. Renewed four times in it.
    lease_ms: int = Field(default=LEASE_MS, ge=LEASE_MS_MIN, le=LEASE_MS_MAX)
    # How long SIGTERM waits for what is under way, in milliseconds.
    drain_ms: int = Field(default=10_000, ge=0, le=600_000)
    # auto: for people on a terminal, JSON elsewhere.
    log_format: Literal["auto", "json", "console"] = "auto"
    # The least level that is logged.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
