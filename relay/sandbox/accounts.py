"""The sandbox's accounts: who has room and credits for a task, and what the upstream tells about them."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from relay.sandbox import shapes
from relay.sandbox.answer import Answer, Refusal, answer, fail, refusal
from relay.sandbox.faults import Faults
from relay.sandbox.register import Register
from relay.sandbox.shapes import Account, Json, Task

PLAN_CREDITS: Final = 1_000_000
CREDITS_A_SECOND: Final = 5
CAPACITY_MIN: Final = 1
CAPACITY_MAX: Final = 3


class Accounts:
    """Configured accounts by e-mail, with the credits that each has used."""

    def __init__(self, accounts: Sequence[Account], register: Register, faults: Faults, rng: Random) -> None:
        self.by_email = {account.email: account for account in accounts}
        self._register = register
        self._faults = faults
        self._rng = rng
        self._used = dict.fromkeys(self.by_email, 0)
        self._secret = rng.getrandbits(64)

    def choose(self, now_ms: int, fields: Mapping[str, Any], owner: str | None) -> Account:
        """The account that runs a task: `owner` has the assets it names. Without either one with room is picked."""
        email = owner or fields.get("email") or None
        broken = self._faults.value("account_broken")
        if email is not None and (email not in self.by_email or email == broken):
            raise refusal(400, f"Account {email} is not configured.")
        if owner is not None and fields.get("email") not in (None, owner):
            raise refusal(400, f"The assets belong to account {owner}.")
        if status := self._faults.take("no_credits"):
            raise Refusal(answer(shapes.NO_CREDITS, int(status)))
        chosen = [self.by_email[email]] if email else [each for each in self.by_email.values() if each.email != broken]
        if not chosen:
            raise refusal(400, "There is no account that could run this task.")
        poor = self._faults.value("no_credits_for")
        solvent = [account for account in chosen if account.email != poor]
        if not solvent:
            self._faults.take("no_credits_for")
            raise Refusal(answer(shapes.NO_CREDITS, 412))
        return self._with_room(now_ms, solvent, fields.get("maxJobs"))

    def charge(self, task: Task) -> None:
        """Count a task's credits; explore mode costs none."""
        if task.fields.get("exploreMode") is not True:
            self._used[task.account] += round(CREDITS_A_SECOND * task.seconds)

    def _with_room(self, now_ms: int, accounts: Sequence[Account], max_jobs: int | None) -> Account:
        running = {account.email: self._register.running(account.email, now_ms) for account in accounts}
        free = [account for account in accounts if len(running[account.email]) < (max_jobs or account.slots)]
        if not free or self._faults.take("busy"):
            seen = {
                email: [
                    {"email": email, "id": task.uuid, "taskId": task.task_id, **shapes.references(task)}
                    for task in tasks
                    if task.created_ms <= now_ms
                ]
                for email, tasks in running.items()
            }
            limit = max_jobs or accounts[0].slots
            raise refusal(429, f"Account {accounts[0].email} is busy executing {limit} tasks", runningTasks=seen)
        able = [account for account in free if len(running[account.email]) < self._capacity(account, now_ms)]
        if not able or self._faults.take("provider_limit"):
            raise Refusal(answer(shapes.PROVIDER_LIMIT, 429))
        return self._rng.choice(able)

    def _capacity(self, account: Account, now_ms: int) -> int:
        """How many tasks the provider runs for an account now."""
        interval_ms = self._faults.wait_ms("capacity_changes")
        if not interval_ms:
            return account.slots
        # From the moment, not from a stream of draws: how often it is asked must not change the answer.
        drawn = Random(f"{self._secret}:{account.email}:{now_ms // interval_ms}")  # noqa: S311 - chance, not a secret
        return drawn.randint(CAPACITY_MIN, CAPACITY_MAX)

    def listed(self, now_ms: int) -> Answer:
        """`GET /accounts`: with the provider's password and token in clear, as the upstream has them."""
        fail(self._faults.take("accounts_fail"))
        return answer({email: self._object(account, now_ms) for email, account in self.by_email.items()})

    def _object(self, account: Account, now_ms: int) -> Json:
        body: Json = {
            "email": account.email,
            "password": f"password-of-{account.email}",
            "maxJobs": account.slots,
            "jwt": {"token": f"eyJ.provider-token-of-{account.email}.sig", "exp": now_ms // 1000 + 30 * 86_400},
        }
        if account.email == self._faults.value("account_broken"):
            body["error"] = "Unable to log in: incorrect password."
        return body

    def features(self, query: Mapping[str, str]) -> Answer:
        """`GET /features/?email=`: plan and credits."""
        fail(self._faults.take("accounts_fail"))
        email = self.email_of(query) or next(iter(self.by_email))
        used = PLAN_CREDITS if email == self._faults.value("no_credits_for") else min(self._used[email], PLAN_CREDITS)
        plan = {"numPlanCredits": PLAN_CREDITS}
        return answer({"email": email, "permitted": plan, "used": {"numPlanCredits": used}})

    def email_of(self, query: Mapping[str, str], *, required: bool = False) -> str | None:
        """The query's `email`; raises Refusal for an unknown one, and without one where there are several accounts."""
        email = query.get("email") or None
        if email is None and (required or len(self.by_email) > 1):
            raise refusal(400, "Parameter email is required when several accounts are configured.")
        if email is not None and email not in self.by_email:
            raise refusal(404, f"Account {email} was not found.")
        return email
