"""Log lines: one an outcome, with the ids that belong to it, never a secret, an e-mail or a whole URL."""

import logging
import sys
from typing import Any, Final

import structlog

# These write whole URLs, with their secrets, at INFO.
_TALKATIVE: Final = ("httpx2", "httpcore2", "uvicorn.access", "aiosqlite", "asyncio")


def configure(*, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Log to stderr: JSON lines, or readable ones on a terminal."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def logger(room: str) -> Any:
    """The logger of one part of the relay."""
    return structlog.get_logger(room=room)
