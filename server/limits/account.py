"""One request's account: whether it may come in, what it uses, and what its asker is told of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import NoReturn

from starlette.types import Message, Receive, Scope, Send

from heedful.server.access.client import Client
from heedful.server.http import WhileConnected
from heedful.server.limits import windows
from heedful.server.limits.budgets import AGAIN, FOLD, OLDEST, Budgets
from heedful.server.limits.headers import OURS, Headers, RateStanding, told, written
from heedful.server.limits.line import FairLine, UnderWay
from heedful.server.limits.table import SharedUnderWay
from heedful.server.limits.terms import terms_of
from heedful.server.limits.windows import Rates, Window
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


class ServerLimits:
    """What all accounts of a server share."""

    def __init__(
        self,
        rates: Rates,
        running: UnderWay | SharedUnderWay,
        line: FairLine | None,
        budgets: Budgets,
        metrics: Metrics,
    ) -> None:
        self.rates, self.budgets, self.line, self.metrics = rates, budgets, line, metrics
        self.terms_of = lru_cache(4096)(lambda client: terms_of(client, rates.memory))
        if line is not None:
            metrics.follow(metrics.queue_length, lambda: line.waiting)
        self.running = running
        """Requests under way, by the owner's name, where their number is limited."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._folding: asyncio.TimerHandle | None = None
        self._renewing: asyncio.TimerHandle | None = None

    def concerns(self, client: Client) -> bool:
        """Whether anything is counted for this client, or anybody waits."""
        return self.line is not None or client.key_id is not None or bool(self.terms_of(client).owners)

    async def settle(self, account: RequestAccount, facts: Facts) -> None:
        """Where that takes round trips, in a task of its own: a client that leaves must not cut it short."""
        if not self.rates.remote:
            account.settle_here(facts)
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
        self._shared, self._terms = shared, shared.terms_of(client)
        self._tenant, self._key = client.tenant.name, client.key_id
        self._charged = 0
        self._admitted = self._settled = False
        self._headers: Headers = []

    # -- coming in

    def enter(self, *, anthropic: bool) -> bool:
        """Comes in where nobody need wait for anything; whether that is so, else `admit`. Raises HeedfulError."""
        shared, terms = self._shared, self._terms
        if shared.rates.remote or (shared.line is not None and not shared.line.has_room(self._tenant)):
            return False
        try:
            self._begin()
            try:
                if terms.counts:
                    self._check_rates_here(anthropic)
            except BaseException:
                self._leave(turn=True)
                raise
        except HeedfulError as error:
            self._count(error)
            raise
        self._admitted = True
        return True

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

    def _begin(self) -> bool:
        """Checks what needs no waiting, and has a turn if there is one: whether it has."""
        self._check_budgets("insufficient_quota")
        concurrent, line = self._terms.concurrent, self._shared.line
        if concurrent and (full := self._shared.running.full(concurrent)) is not None:
            name, most = full
            raise _too_many(f"{name} may have {most} requests under way at once", "requests", 0.0)
        return line is None or line.take(self._tenant)

    async def _admit(self, receive: Receive | None, deadline: float, *, anthropic: bool) -> None:
        line = self._shared.line
        turn = self._begin()
        try:
            if not turn and line is not None:
                line.check(self._tenant)
            if self._terms.counts:
                if self._shared.rates.remote:
                    await self._check_rates(anthropic)
                else:
                    self._check_rates_here(anthropic)
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

    def _check_rates_here(self, anthropic: bool) -> None:
        """As `_check_rates`, without an object for each limit: this is done for every request."""
        with self._terms.together:
            over = self._count_here(anthropic)
        if over is not None:
            self._refuse(self._standings(over), anthropic)

    def _count_here(self, anthropic: bool) -> list[Window] | None:
        """How all stand where one is used up; else the request counts."""
        terms, memory = self._terms, self._shared.rates.memory
        at, into = divmod(windows.now(), windows.MINUTE)
        minute, left = int(at), windows.MINUTE - into
        nearest: dict[str, tuple[int, int, int, float]] = {}
        for kind, limit, count in terms.counts:
            if count.minute != minute:
                memory.turn(count, minute)
            used = int(count.before * left / windows.MINUTE) + count.current
            if used >= limit:
                return memory.look(terms.keys)
            reset = left + windows.MINUTE if count.current else left if count.before else 0.0
            if kind == "requests":
                used, reset = used + 1, left + windows.MINUTE
            if kind not in nearest or limit - used < nearest[kind][0]:
                nearest[kind] = limit - used, limit, used, reset
        for kind, _, count in terms.counts:
            if kind == "requests":
                count.current += 1
        self._headers = []
        for kind, (_, limit, used, reset) in nearest.items():
            self._headers += told(kind, limit, used, reset, anthropic=anthropic)
        return None

    async def _check_rates(self, anthropic: bool) -> None:
        terms, rates = self._terms, self._shared.rates
        standings = self._standings(await rates.look(terms.keys))
        if any(s.used >= s.limit for s in standings):
            self._refuse(standings, anthropic)
        within = not terms.requests or await rates.hit(terms.requests)
        for standing in standings[: len(terms.requests)]:
            standing.used += 1
        self._headers = written(standings, anthropic=anthropic)
        if not within:  # another process was quicker
            raise _over(standings[0])

    def _standings(self, seen: Sequence[Window]) -> list[RateStanding]:
        terms = self._terms
        counted = zip(terms.counts, terms.named, seen, strict=True)
        return [RateStanding(kind, owner, limit, w.used, w) for (kind, limit, _), owner, w in counted]

    def _refuse(self, standings: Sequence[RateStanding], anthropic: bool) -> NoReturn:
        self._headers = written(standings, anthropic=anthropic)
        over = [s for s in standings if s.used >= s.limit]
        raise _over(max(over, key=lambda s: s.window.wait(s.limit)))

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
                if self._shared.rates.remote:
                    return ending(message)
                self.settle_here(facts)
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
        """As `settle_here`, where minutes are counted elsewhere."""
        if not self.open:
            return
        self._leaves(facts)
        if facts.tokens and self._terms.tokens:
            try:
                await self._shared.rates.charge(self._terms.tokens, facts.tokens)
            except HeedfulError as error:
                failed(error)  # the answer is whole, and the budget has it
        self._commit(facts.tokens)

    def settle_here(self, facts: Facts) -> None:
        """Charges what was used, once, and makes room for the next."""
        if not self.open:
            return
        self._leaves(facts)
        if (tokens := facts.tokens) and self._terms.token_counts:
            try:
                self._shared.rates.memory.add(self._terms.token_counts, tokens)
            except HeedfulError as error:
                failed(error)  # the answer is whole, and the budget has it
        self._commit(tokens)

    def _leaves(self, facts: Facts) -> None:
        self._settled = True
        self._leave(turn=True)
        facts.settle()

    def _commit(self, tokens: int) -> None:
        self._shared.budgets.commit(self._tenant, self._key, tokens, self._charged)
        self._shared.fold_soon()

    def _leave(self, *, turn: bool) -> None:
        if turn and self._shared.line is not None:
            self._shared.line.leave(self._tenant)
        if self._terms.concurrent:
            self._shared.running.over(self._terms.concurrent)


def account_of(scope: Scope) -> RequestAccount | None:
    """Where this request's tokens are counted; None where they are not."""
    account: RequestAccount | None = scope.get(SCOPE)
    return account


def _over(standing: RateStanding) -> HeedfulError:
    wait = standing.window.wait(standing.limit)
    return _too_many(
        f"{standing.owner} may use {standing.limit} {standing.kind} in a minute and has used {standing.used}",
        standing.kind,
        wait,
    )


def _too_many(what: str, kind: str, wait: float) -> HeedfulError:
    seconds = int(wait) + 1
    return HeedfulError(
        f"{what}; try again in {seconds} s",
        status=429,
        type=kind,
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
