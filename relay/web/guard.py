"""Who may do what: every door but the open ones asks for a token and one of its scopes.

A token comes as a bearer, or as the cookie of a browser whose reader has signed in with it (`session.py`).
"""

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from relay.core.job import Job
from relay.core.ledger import Token
from relay.core.target import HOP_HEADER, check_hops
from relay.errors import Forbidden, RelayError, Unauthorized
from relay.observe import about, logger
from relay.store.contract import Store
from relay.vault import Vault, hash_token

Scope = Literal["submit", "read", "manage"]
SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
# The last one is the admin token's own, and no other can have it.
DoorScope = Scope | Literal["admin"]
OWN: Final = "admin"
TOKEN_MAX_CHARS: Final = 512
TICKET_MAX_CHARS: Final = 4_096
TICKET: Final = "ticket"
SESSION: Final = "session"
SESSION_S: Final = 7 * 86_400
FOR_EVER: Final = 2**62
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
# Names under these cannot be bought, so nobody can point one of his own at a relay in somebody else's network.
UNSOLD: Final = (".localhost", ".local", ".internal", ".home.arpa", ".test")
AUDITED_MAX_CHARS: Final = 80
_log = logger("audit")

Door = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket opens: one job, or the jobs of one replyRef, until then."""

    job_id: str | None
    reply_ref: str | None
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever holds a token. `token_id` owns the jobs that it submits, `name` is shown.

    With a `ticket` it is somebody to whom that token's holder has shown a little of what it sees. A session, or a token
    of limited time, ends at `until_ms`.
    """

    token_id: str
    name: str
    scopes: frozenset[str]
    ticket: Ticket | None = None
    until_ms: int | None = None

    def sees(self, token_id: str) -> bool:
        """Whether this principal may know of the jobs of `token_id`: of its own, or of all with `read`."""
        return "read" in self.scopes or token_id == self.token_id

    def may_see(self, job: Job) -> bool:
        """Whether this principal may know of this job."""
        ticket = self.ticket
        if ticket is not None and job.id != ticket.job_id:
            return ticket.reply_ref is not None and job.reply_ref == ticket.reply_ref and self.sees(job.token_id)
        return self.sees(job.token_id)

    @property
    def own_only(self) -> tuple[str, ...]:
        """For a filter: empty for whoever may see everything."""
        return () if "read" in self.scopes else (self.token_id,)


ADMIN: Final = Principal("admin", "admin", SCOPES | {OWN})


class Guard:
    """Knows the admin token and the inbox's secret by their hashes, and asks the store for all other tokens.

    It asks anew for each request, so that a token that was revoked, by whichever process, opens nothing from then on.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        admin_token: str,
        inbox_token: str | None = None,
        public_url: str | None = None,
        own_names: Iterable[str] = (),
    ) -> None:
        """`own_names`: hosts that the relay's pages may be asked for by, beside those that nobody else can own."""
        self._store = store
        self._vault = vault
        self._public_url = public_url
        self._own_names = frozenset(own_names)
        # Cookies know no ports: of two relays on one host each has its own.
        self._cookie = f"relay-{store.instance}"
        self._inbox_hash = hash_token(inbox_token) if inbox_token else None
        self._admin_hash = hash_token(admin_token)

    def opens_inbox(self, token: str) -> bool:
        """Whether this is the secret of the callback inbox."""
        return self._inbox_hash is not None and hmac.compare_digest(hash_token(token), self._inbox_hash)

    def is_secure(self, request: Request) -> bool:
        """Whether the browser speaks TLS, to the relay or to a proxy that is trusted to say so."""
        return (self._public_url or "").startswith("https:") or request.scope["scheme"] == "https"

    def cookie(self, request: Request) -> str:
        """The name of the session's cookie."""
        return f"{'__Host-' if self.is_secure(request) else ''}{self._cookie}"

    def check_host(self, request: Request) -> None:
        """`Forbidden` when the browser was led here by a name of somebody else's, whose page could then read ours."""
        host = request.headers.get("host", "")
        with suppress(ValueError):
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if name in self._own_names or "." not in name or name.endswith(UNSOLD):
                return
            ipaddress.ip_address(name)
            return
        raise Forbidden("the relay's pages are not to be had by this name: set RELAY_PUBLIC_URL, or RELAY_CORS_ORIGINS")

    async def who(self, request: Request) -> Principal:
        """The holder of the request's token; `Unauthorized` without a good one."""
        if not request.headers.get("authorization") and self.cookie(request) in request.cookies:
            return await self._signed_in(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("send a token: Authorization: Bearer <token>")
        return await self._holder(token, request.app.state.clock.now_ms())

    async def sign_in(self, token: str, now_ms: int) -> tuple[str, Principal]:
        """The cookie's value for the holder of this token; `Unauthorized` when it is not known."""
        holder = await self._holder(token, now_ms)
        until_ms = min(now_ms + SESSION_S * 1000, holder.until_ms or FOR_EVER)
        return self._vault.seal(json.dumps([hash_token(token), until_ms]), SESSION), replace(holder, until_ms=until_ms)

    async def _signed_in(self, request: Request) -> Principal:
        """Whoever came with this cookie; what changes something must come from a page of ours."""
        self.check_host(request)
        known, until_ms, now_ms = None, 0, request.app.state.clock.now_ms()
        with suppress(RelayError):
            token_hash, until_ms = json.loads(self._vault.open(request.cookies[self.cookie(request)], SESSION))
            known = await self._known(token_hash, now_ms)
        if known is None or until_ms <= now_ms:
            raise Unauthorized("your session is over; sign in again")
        if request.method not in SAFE_METHODS:
            check_origin(request, self._public_url)
        return replace(known, until_ms=until_ms)

    async def _holder(self, token: str, now_ms: int) -> Principal:
        known = None if len(token) > TOKEN_MAX_CHARS else await self._known(hash_token(token), now_ms)
        if known is None:
            raise Unauthorized("this token is not known to the relay")
        return known

    async def _known(self, token_hash: str, now_ms: int) -> Principal | None:
        if hmac.compare_digest(token_hash, self._admin_hash):
            return ADMIN
        # An index may be compared in any time: whoever measures it learns of hashes, and a hash opens nothing.
        token = await self._store.token_of_hash(token_hash)
        return _principal(token) if token and token.good_at(now_ms) else None

    async def lives(self, principal: Principal, now_ms: int) -> bool:
        """Whether what somebody came with is still good; for what goes on after its request was let in."""
        until_ms = min(principal.until_ms or FOR_EVER, principal.ticket.expires_at_ms if principal.ticket else FOR_EVER)
        if until_ms <= now_ms:
            return False
        return principal.token_id == ADMIN.token_id or await self._store.token(principal.token_id) is not None

    def seal(self, maker: Principal, ticket: Ticket) -> str:
        """The ticket as it goes into an address."""
        fields = [maker.token_id, ticket.job_id, ticket.reply_ref, ticket.expires_at_ms]
        return self._vault.seal(json.dumps(fields), TICKET)

    async def shown_to(self, sealed: str, now_ms: int) -> Principal:
        """Whoever came with this ticket; `Unauthorized` when it is none, is over, or its maker's token is gone."""
        try:
            if len(sealed) > TICKET_MAX_CHARS:
                raise RelayError("a ticket is not that long")
            token_id, job_id, reply_ref, expires_at_ms = json.loads(self._vault.open(sealed, TICKET))
        except RelayError:
            raise Unauthorized("this ticket is not known to the relay") from None
        token = await self._store.token(token_id) if token_id != ADMIN.token_id else None
        maker = ADMIN if token_id == ADMIN.token_id else _principal(token) if token and token.good_at(now_ms) else None
        if maker is None or expires_at_ms <= now_ms:
            raise Unauthorized("this ticket is over; ask for a new one")
        return replace(maker, ticket=Ticket(job_id, reply_ref, expires_at_ms))


def check_origin(request: Request, public_url: str | None) -> None:
    """`Forbidden` unless a page of ours sends this: a browser sends the cookie, but cannot be made to lie about itself.

    Ours is what the browser calls the host that it speaks to, or what the settings do, behind a proxy that renames it.
    """
    origin = urlsplit(request.headers.get("origin", ""))
    own = urlsplit(public_url or "")
    ours, schemes = {request.headers.get("host", ""), own.netloc} - {""}, {"https", own.scheme or "http"}
    if origin.scheme not in schemes or origin.netloc not in ours:
        raise Forbidden("with a session's cookie, only the relay's own pages may change things: Origin is another")


def _principal(token: Token) -> Principal:
    return Principal(token.id, token.name, frozenset(token.scopes), until_ms=token.expires_at_ms)


def _write_down(request: Request, principal: Principal) -> None:
    """The audit's line of what was done: by which token, from where, to what. `made` is bound where something is."""
    of = {name: str(value)[:AUDITED_MAX_CHARS] for name, value in request.path_params.items()}
    action = f"{request.method} {getattr(request.scope.get('route'), 'path', None)}"
    client = request.client.host[:AUDITED_MAX_CHARS] if request.client else None
    in_session = not request.headers.get("authorization")
    _log.info("audit", action=action, token=principal.token_id, session=in_session, client=client, of=of)


def needs(scopes: tuple[DoorScope, ...], door: Door, *, tickets: bool = False) -> Door:
    """A door that opens for tokens with one of `scopes`; who came is in `request.state.principal`.

    With `tickets` it opens for `?ticket=` too: a browser's event stream cannot send a header.
    """

    async def guarded(request: Request) -> Response:
        state = request.app.state
        if tickets and "ticket" in request.query_params:
            principal = await state.guard.shown_to(request.query_params["ticket"], state.clock.now_ms())
        else:
            principal = await state.guard.who(request)
        if not principal.scopes.intersection(scopes):
            wanted = "the admin token" if OWN in scopes else f"a token with the scope {' or '.join(scopes)}"
            raise Forbidden(f"this needs {wanted}")
        if "submit" in scopes and request.method == "POST":
            check_hops(request.headers.getlist(HOP_HEADER), request.app.state.store.instance)
        request.state.principal = principal
        about(by=principal.name)
        answer = await door(request)
        # Not what only adds a job, which says itself who did it.
        if request.method not in SAFE_METHODS and ("manage" in scopes or request.path_params):
            _write_down(request, principal)
        return answer

    return guarded
