"""Who may do what: every door but the open ones asks for a bearer token and one of its scopes."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from starlette.requests import Request
from starlette.responses import Response

from relay.core.ledger import Token
from relay.errors import Forbidden, Unauthorized
from relay.store.contract import Store
from relay.vault import hash_token

Scope = Literal["submit", "read", "manage"]
SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
TOKEN_MAX_CHARS: Final = 512

Door = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever holds a token. `token_id` owns the jobs that it submits, `name` is shown."""

    token_id: str
    name: str
    scopes: frozenset[str]

    def sees(self, token_id: str) -> bool:
        """Whether this principal may know of the jobs of `token_id`: of its own, or of all with `read`."""
        return "read" in self.scopes or token_id == self.token_id

    @property
    def own_only(self) -> tuple[str, ...]:
        """For a filter: empty for whoever may see everything."""
        return () if "read" in self.scopes else (self.token_id,)


ADMIN: Final = Principal("admin", "admin", SCOPES)


class Guard:
    """Knows the admin token and the inbox's secret by their hashes, and asks the store for all other tokens.

    It asks anew for each request, so that a token that was revoked, by whichever process, opens nothing from then on.
    """

    def __init__(self, store: Store, admin_token: str, inbox_token: str | None = None) -> None:
        self._store = store
        self._inbox_hash = hash_token(inbox_token) if inbox_token else None
        self._admin_hash = hash_token(admin_token)

    def opens_inbox(self, token: str) -> bool:
        """Whether this is the secret of the callback inbox."""
        return self._inbox_hash is not None and hmac.compare_digest(hash_token(token), self._inbox_hash)

    async def who(self, request: Request) -> Principal:
        """The holder of the request's token; `Unauthorized` without a good one."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("send a token: Authorization: Bearer <token>")
        known = None if len(token) > TOKEN_MAX_CHARS else await self._known(hash_token(token))
        if known is None:
            raise Unauthorized("this token is not known to the relay")
        return known

    async def _known(self, token_hash: str) -> Principal | None:
        if hmac.compare_digest(token_hash, self._admin_hash):
            return ADMIN
        # An index may be compared in any time: whoever measures it learns of hashes, and a hash opens nothing.
        token = await self._store.token_of_hash(token_hash)
        return _principal(token) if token else None

    async def lives(self, principal: Principal) -> bool:
        """Whether the token that somebody came with is still good; for what goes on after its request was let in."""
        return principal is ADMIN or await self._store.token(principal.token_id) is not None


def _principal(token: Token) -> Principal:
    return Principal(token.id, token.name, frozenset(token.scopes))


def needs(scopes: tuple[Scope, ...], door: Door) -> Door:
    """A door that opens for tokens with one of `scopes`; who came is in `request.state.principal`."""

    async def guarded(request: Request) -> Response:
        principal = await request.app.state.guard.who(request)
        if not principal.scopes.intersection(scopes):
            raise Forbidden(f"this needs a token with the scope {' or '.join(scopes)}")
        request.state.principal = principal
        return await door(request)

    return guarded
