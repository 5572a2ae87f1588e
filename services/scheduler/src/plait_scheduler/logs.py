"""Logs on stderr: one JSON object a line, or coloured lines for people. stdout is data."""

import logging
import sys
from typing import Literal, TextIO

import structlog


def configure_logs(
    log_format: Literal["auto", "json", "console"],
    level: str,
    stream: TextIO = sys.stderr,
    colour: bool | None = None,
) -> None:
    """Sets structlog up. Fields are those of every process of Plait: time, level, logger, event and
    what it carries.
    """
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    renderer: structlog.typing.Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() if colour is None else colour
        )
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _clock(console),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _clock(console: bool) -> structlog.typing.Processor:
    """For people the time of day, where the renderer puts it first."""
    if console:
        return structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
