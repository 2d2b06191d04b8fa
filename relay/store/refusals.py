"""What PostgreSQL refuses, and whose matter that is: one happening's, the server's, or that of whoever set it up."""

from typing import Final

import asyncpg

from relay.errors import Unavailable
from relay.store.writer import RETRY_AFTER_S

# Errors that the values of one happening cause.
OF_ONE: Final = (
    *(asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.ProgramLimitExceededError),
    *(ValueError, TypeError, LookupError, ArithmeticError),
)
# What says that the server, or the way to it, is not there now, or cannot do its work.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
AWAY: Final = (
    *(OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError),
    # Shut down, told to stop; out of disk, memory or connections; an error of its machine, or of its own.
    *(asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError),
    *(asyncpg.InternalServerError, asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.ReadOnlySQLTransactionError),
    # Two that wait for each other, or for somebody's lock.
    *(asyncpg.TransactionRollbackError, asyncpg.ObjectNotInPrerequisiteStateError),
    # The user, the database or a right was there when the relay started.
    *(asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError),
    asyncpg.InsufficientPrivilegeError,
    # A connection that was lost in the midst of something is used once more before that is noticed.
    asyncpg.InternalClientError,
)
# What says that a database cannot be opened at all, or not by an address such as this.
CLOSED: Final = (*AWAY, asyncpg.PostgresError, ValueError)


def cannot(what: str, error: BaseException) -> Unavailable:
    return Unavailable(f"the database cannot be {what}: {sentence(error)}", retry_after_s=RETRY_AFTER_S)


def sentence(error: BaseException) -> str:
    """What went wrong, without anything of the database's address."""
    if type(error) is ValueError:  # of an address that cannot be read, whose password it may quote
        return "its URL cannot be read: in a password, write what is neither letter nor digit as %XX"
    return str(error).partition("\n")[0] or type(error).__name__
