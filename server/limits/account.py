"""One request's account: whether it may come in, what it uses, and what its asker is told of both."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Message, Receive, Scope, Send

from heedful.server.access.client import Client
from heedful.server.access.settings import LimitSettings
from heedful.server.http import WhileConnected
from heedful.server.limits.budgets import AGAIN, FOLD, OLDEST, Budgets, TokenBudget
from heedful.server.limits.headers import OURS, Headers, RateStanding, written
from heedful.server.limits.line import FairLine
from heedful.server.limits.windows import Rates
from heedful.server.log import failed
from heedful.server.observe.facts import Facts
from heedful.server.observe.metrics import Metrics
from heedful.strategies import HeedfulError

SCOPE = "heedful.account"
"""Where a request's ASGI scope holds its account."""
_REASONS = {
    "insufficient_quota": "budget",
    "budget_spent": "budget",
    "server_busy": "queue_full",
    "rate_limit_exceeded": "rate",
}
"""Of refusals, as metrics have them, by the error's code."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has limits: a tenant, or one key of it."""

    tenant: str
    key: str | None
    limits: LimitSettings

    @property
    def name(self) -> str:
        return f"tenant {self.tenant!r}" if self.key is None else f"key {self.key!r}"

    def of(self, what: str) -> str:
        """The name of what is counted by the minute."""
        return f"{what}/{self.tenant}" if self.key is None else f"{what}/{self.tenant}/{self.key}"


@dataclass(frozen=True, slots=True)
class Terms:
    """A client's limits, its own and its tenant's, sorted by how they are looked at for each request."""

    owners: tuple[Owner, ...]
    requests: tuple[tuple[str, int], ...]
    """What is counted a minute, and the limit; the owners stand in the same order in `named`."""
    tokens: tuple[tuple[str, int], ...]
    named: tuple[str, ...]
    concurrent: tuple[tuple[str, int], ...]
    budgets: tuple[TokenBudget, ...]


@lru_cache(maxsize=4096)
def terms_of(client: Client) -> Terms:
    """What holds for a client's requests."""
    tenant = Owner(client.tenant.name, None, client.tenant.settings.limits)
    key = Owner(client.tenant.name, client.key_id, client.limits)
    owners = tuple(owner for owner in (tenant, key) if owner.limits != LimitSettings())
    requests = [(o, o.limits.requests_per_minute) for o in owners]
    tokens = [(o, o.limits.tokens_per_minute) for o in owners]
    limited = [(o.limits.tokens_per_day, o.limits.tokens_per_month) for o in owners]
    return Terms(
        owners,
        tuple((o.of("requests"), most) for o, most in requests if most is not None),
        tuple((o.of("tokens"), most) for o, most in tokens if most is not None),
        tuple(o.name for o, most in (*requests, *tokens) if most is not None),
        tuple((o.name, o.limits.concurrent) for o in owners if o.limits.concurrent is not None),
        tuple(
            TokenBudget((o.tenant, o.key), *most)
            for o, most in zip(owners, limited, strict=True)
            if most != (None, None)
        ),
    )


class ServerLimits:
    """What all accounts of a server share."""

    def __init__(self, rates: Rates, budgets: Budgets, line: FairLine | None, metrics: Metrics) -> None:
        self.rates, self.budgets, self.line, self.metrics = rates, budgets, line, metrics
        if line is not None:
            metrics.queue_length.set_function(lambda: line.waiting)
        self.running: Counter[str] = Counter()
        """Requests under way, by the owner's name, where their number is limited."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._folding: asyncio.TimerHandle | None = None
        self._renewing: asyncio.TimerHandle | None = None

    def concerns(self, client: Client) -> bool:
        """Whether anything is counted for this client, or anybody waits."""
        return self.line is not None or client.key_id is not None or bool(terms_of(client).owners)

    async def settle(self, account: RequestAccount, facts: Facts) -> None:
        """Where that takes round trips, in a task of its own: a client that leaves must not cut it short."""
        if not self.rates.remote:
            await account.settle(facts)
            return
        task = asyncio.create_task(account.settle(facts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    def fold_soon(self) -> None:
        """Brings what was used into the file, with all that comes until then."""
        if self._folding is None:
            self._folding = asyncio.get_running_loop().call_later(FOLD, self._fold)

    def _fold(self) -> None:
        self._folding = None
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().call_later(OLDEST, self._renew)
        if not self.budgets.fold():
            self._folding = asyncio.get_running_loop().call_later(AGAIN, self._fold)

    def _renew(self) -> None:
        self._renewing = None
        self.budgets.renew()

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for due in (self._folding, self._renewing):
            if due is not None:
                due.cancel()
        await self.rates.close()
        self.budgets.close()


class RequestAccount:
    """Opened for each request; counts once it is admitted. The `Account` of its ledger, so that it holds nothing of
    the request itself."""

    __slots__ = ("_admitted", "_charged", "_headers", "_key", "_settled", "_shared", "_tenant", "_terms")

    def __init__(self, shared: ServerLimits, client: Client) -> None:
        self._shared, self._terms = shared, terms_of(client)
        self._tenant, self._key = client.tenant.name, client.key_id
        self._charged = 0
        self._admitted = self._settled = False
        self._headers: Headers = []

    # -- coming in

    async def admit(self, receive: Receive | None, deadline: float, *, anthropic: bool) -> None:
        """Raises HeedfulError for who has used up a limit, or finds no place in line. Waits for its turn.

        `receive`: None where somebody watches already whether the client is there. `deadline`: in the event loop's
        time.
        """
        try:
            await self._admit(receive, deadline, anthropic=anthropic)
        except HeedfulError as error:
            self._count(error)
            raise
        self._admitted = True

    async def _admit(self, receive: Receive | None, deadline: float, *, anthropic: bool) -> None:
        terms, line = self._terms, self._shared.line
        self._check_budgets("insufficient_quota")
        running = self._shared.running
        for name, most in terms.concurrent:
            if running[name] >= most:
                raise _too_many(f"{name} may have {most} requests under way at once", "requests", 0.0)
        turn = line is None or line.take(self._tenant)
        for name, _ in terms.concurrent:
            running[name] += 1
        try:
            if not turn and line is not None:
                line.check(self._tenant)
            if terms.named:
                await self._check_rates(anthropic)
            if not turn and line is not None:
                watching = nullcontext() if receive is None else WhileConnected(receive)
                async with watching, asyncio.timeout_at(deadline):
                    began = time.perf_counter()
                    await line.wait(self._tenant)
                    self._shared.metrics.waited(time.perf_counter() - began)
        except BaseException:
            self._leave(turn=turn)
            raise

    def _count(self, refusal: HeedfulError) -> None:
        if (reason := _REASONS.get(refusal.code or "")) is not None:
            self._shared.metrics.refused(reason, self._tenant)

    def _check_budgets(self, code: str) -> None:
        if budgets := self._terms.budgets:
            self._shared.budgets.check(budgets, code=code)

    async def _check_rates(self, anthropic: bool) -> None:
        terms, rates = self._terms, self._shared.rates
        limits = (*terms.requests, *terms.tokens)
        windows = await rates.look([key for key, _ in limits])
        kinds = ["requests"] * len(terms.requests) + ["tokens"] * len(terms.tokens)
        standings = [
            RateStanding(kind, owner, limit, window.used, window)
            for kind, owner, (_, limit), window in zip(kinds, terms.named, limits, windows, strict=True)
        ]
        over = [s for s in standings if s.used >= s.limit]
        if not over and terms.requests:
            within = await rates.hit(terms.requests)
            over = [] if within else standings[:1]  # another process was quicker
            for standing in standings[: len(terms.requests)]:
                standing.used += 1
        self._headers = written(standings, anthropic=anthropic)
        if over:
            longest = max(over, key=lambda s: s.window.wait(s.limit))
            raise _too_many(
                f"{longest.owner} may use {longest.limit} {longest.kind} in a minute and has used {longest.used}",
                longest.kind,
                longest.window.wait(longest.limit),
            )

    # -- under way

    def charge(self, tokens: int) -> None:
        self._charged += tokens
        self._shared.budgets.hold(self._tenant, self._key, tokens)

    def check(self) -> None:
        """Raises BudgetSpent: what was used until now is charged."""
        try:
            self._check_budgets("budget_spent")
        except HeedfulError as error:
            self._count(error)
            raise

    def sending(self, send: Send, facts: Facts) -> Send:
        """Adds the headers, and settles before the answer's end goes out."""

        def sending(message: Message) -> Awaitable[None]:  # no coroutine of its own: each token comes by here
            if message["type"] == "http.response.start":
                if ours := self._headers:
                    headers = [h for h in message["headers"] if not h[0].startswith(OURS)]
                    message = {**message, "headers": headers + ours}
            elif not message.get("more_body", False) and self.open:
                return ending(message)
            return send(message)

        async def ending(message: Message) -> None:
            await self._shared.settle(self, facts)
            await send(message)

        return sending

    # -- over

    @property
    def open(self) -> bool:
        """Whether it is still to be settled."""
        return self._admitted and not self._settled

    async def settle(self, facts: Facts) -> None:
        """Charges what was used, once, and makes room for the next."""
        if not self.open:
            return
        self._settled = True
        self._leave(turn=True)
        facts.settle()
        tokens = facts.tokens
        if tokens and self._terms.tokens:
            try:
                await self._shared.rates.charge([key for key, _ in self._terms.tokens], tokens)
            except HeedfulError as error:
                failed(error)  # the answer is whole, and the budget has it
        self._shared.budgets.commit(self._tenant, self._key, tokens, self._charged)
        self._shared.fold_soon()

    def _leave(self, *, turn: bool) -> None:
        if turn and self._shared.line is not None:
            self._shared.line.leave(self._tenant)
        running = self._shared.running
        for name, _ in self._terms.concurrent:
            running[name] -= 1
            if not running[name]:
                del running[name]


def account_of(scope: Scope) -> RequestAccount | None:
    """Where this request's tokens are counted; None where they are not."""
    account: RequestAccount | None = scope.get(SCOPE)
    return account


def _too_many(what: str, kind: str, wait: float) -> HeedfulError:
    seconds = int(wait) + 1
    return HeedfulError(
        f"{what}; try again in {seconds} s",
        status=429,
        type=kind,
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
