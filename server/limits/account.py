"""One request's account: whether it may come in, what it uses, and what its asker is told of both."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Message, Receive, Scope, Send

from heedful.server.access.client import Client
from heedful.server.access.settings import LimitSettings
from heedful.server.http import WhileConnected
from heedful.server.limits.budgets import Budgets
from heedful.server.limits.headers import Headers, Standing, is_ours, written
from heedful.server.limits.line import Line
from heedful.server.limits.windows import Rates
from heedful.server.log import failed
from heedful.server.observe.facts import Facts
from heedful.strategies import HeedfulError

SCOPE = "heedful.account"
"""Where a request's ASGI scope holds its account."""


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
        """The name of what is counted."""
        return f"{what}/{self.tenant}" if self.key is None else f"{what}/{self.tenant}/{self.key}"


@lru_cache(maxsize=4096)
def owners_of(client: Client) -> tuple[Owner, ...]:
    """Those whose limits hold for a client's requests: what has none is not among them."""
    tenant = Owner(client.tenant.name, None, client.tenant.settings.limits)
    key = Owner(client.tenant.name, client.key_id, client.limits)
    none = LimitSettings()
    return tuple(owner for owner in (tenant, key) if owner.limits != none)


class Shared:
    """What all accounts of a server share."""

    def __init__(self, rates: Rates, budgets: Budgets, line: Line | None) -> None:
        self.rates, self.budgets, self.line = rates, budgets, line
        self.running: Counter[str] = Counter()
        """Requests under way, by owner."""
        self._tasks: set[asyncio.Task[None]] = set()

    def concerns(self, client: Client) -> bool:
        """Whether anything is counted for this client, or anybody waits."""
        return self.line is not None or client.key_id is not None or bool(owners_of(client))

    async def settle(self, account: RequestAccount) -> None:
        """Where that takes round trips, in a task of its own: a client that leaves must not cut it short."""
        if not self.rates.remote:
            await account.settle()
            return
        task = asyncio.create_task(account.settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.rates.close()
        self.budgets.close()


class RequestAccount:
    """Opened for each request; counts once it is admitted. The `Account` of its ledger."""

    __slots__ = (
        "_admitted",
        "_charged",
        "_facts",
        "_headers",
        "_key",
        "_owners",
        "_settled",
        "_shared",
        "_tenant",
    )

    def __init__(self, shared: Shared, client: Client, facts: Facts) -> None:
        self._shared, self._facts, self._owners = shared, facts, owners_of(client)
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
        line = self._shared.line
        if self._owners:
            self._check_budgets("insufficient_quota")
            self._check_concurrent()
        if line is not None:
            line.check(self._tenant)
        if self._owners:
            await self._check_rates(anthropic)
        for owner in self._owners:
            self._shared.running[owner.name] += 1
        try:
            if line is not None and not line.take(self._tenant):
                watching = nullcontext() if receive is None else WhileConnected(receive)
                async with watching, asyncio.timeout_at(deadline):
                    await line.wait(self._tenant)
        except BaseException:
            self._leave()
            raise
        self._admitted = True

    def _check_budgets(self, code: str) -> None:
        for owner in self._owners:
            limits = owner.limits
            day, month = limits.tokens_per_day, limits.tokens_per_month
            if day is not None or month is not None:
                self._shared.budgets.check(owner.tenant, owner.key, day, month, code=code)

    def _check_concurrent(self) -> None:
        for owner in self._owners:
            most = owner.limits.concurrent
            if most is not None and self._shared.running[owner.name] >= most:
                raise _too_many(f"{owner.name} may have {most} requests under way at once", "requests", 0.0)

    async def _check_rates(self, anthropic: bool) -> None:
        requests = [o for o in self._owners if o.limits.requests_per_minute is not None]
        tokens = [o for o in self._owners if o.limits.tokens_per_minute is not None]
        if not requests and not tokens:
            return
        rates = self._shared.rates
        windows = await rates.look([*(o.of("requests") for o in requests), *(o.of("tokens") for o in tokens)])
        standings = [
            Standing("requests", o.name, o.limits.requests_per_minute or 0, w)
            for o, w in zip(requests, windows, strict=False)
        ]
        standings += [
            Standing("tokens", o.name, o.limits.tokens_per_minute or 0, w)
            for o, w in zip(tokens, windows[len(requests) :], strict=True)
        ]
        over = [s for s in standings if s.wait > 0]
        if not over and requests:
            within = await rates.hit(
                [(o.of("requests"), o.limits.requests_per_minute or 0) for o in requests]
            )
            standings = [s.after_this() if s.kind == "requests" else s for s in standings]
            over = [] if within else standings[:1]  # another process was quicker
        self._headers = written(standings, anthropic=anthropic)
        if over:
            longest = max(over, key=lambda s: s.wait)
            raise _too_many(
                f"{longest.owner} may use {longest.limit} {longest.kind} in a minute and has used "
                f"{longest.window.used}",
                longest.kind,
                longest.wait,
            )

    # -- under way

    def charge(self, tokens: int) -> None:
        self._charged += tokens
        self._shared.budgets.hold(self._tenant, self._key, tokens)

    def check(self) -> None:
        """Raises BudgetSpent: what was used until now is charged."""
        if self._owners:
            self._check_budgets("budget_spent")

    def sending(self, send: Send) -> Send:
        """Adds the headers, and settles before the answer's end goes out."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                if ours := self._headers:
                    headers = [h for h in message["headers"] if not is_ours(h[0])]
                    message = {**message, "headers": headers + ours}
            elif not message.get("more_body", False) and self.open:
                await self._shared.settle(self)
            await send(message)

        return sending

    # -- over

    @property
    def open(self) -> bool:
        """Whether it is still to be settled."""
        return self._admitted and not self._settled

    async def settle(self) -> None:
        """Charges what was used, once, and makes room for the next."""
        if not self.open:
            return
        self._settled = True
        self._leave()
        if self._shared.line is not None:
            self._shared.line.leave(self._tenant)
        self._facts.settle()
        tokens = self._facts.tokens
        self._shared.budgets.commit(self._tenant, self._key, tokens, self._charged)
        limited = [o.of("tokens") for o in self._owners if o.limits.tokens_per_minute is not None]
        if tokens and limited:
            try:
                await self._shared.rates.charge(limited, tokens)
            except HeedfulError as error:
                failed(error)  # the answer is whole, and the budget has it

    def _leave(self) -> None:
        running = self._shared.running
        for owner in self._owners:
            running[owner.name] -= 1
            if not running[owner.name]:
                del running[owner.name]


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
