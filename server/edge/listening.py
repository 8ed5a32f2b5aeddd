"""The HTTP/1.1 side of a connection: uvicorn's, with bounds on how long and how much a client may keep it waiting.

uvicorn itself bounds an idle connection after its first answer, and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from heedful.server.config import Config
from heedful.server.http import error_response
from heedful.server.shapes import anthropic_error
from heedful.strategies import RequestError

# Bytes a second that any connection manages. A time-out is extended by what has come (or gone) at this pace.
_SLOWEST = 1024
# Bytes of a request's line and headers, or of what is neither headers nor body.
_MOST_HEAD = 64 * 1024
# Seconds that an idle connection stays when a server goes down: the client may have sent a request already.
_LINGER = 0.25


def uvicorn_config(app: Any, config: Config) -> uvicorn.Config:
    """uvicorn with our settings."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http=type("BoundConnection", (Connection,), {"settings": config}),
        ws="none",
        timeout_graceful_shutdown=config.shutdown_grace,
        timeout_keep_alive=65,
        server_header=False,
        proxy_headers=False,
    )


class Connection(HttpToolsProtocol):
    """One connection. What a request costs here is a few assignments: one timer looks at them from time to time."""

    settings: ClassVar[Config]

    # -- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What is being read ("head", "body", or nothing), since when, and the bytes of it that have come.
        self._reading = ""
        self._since = 0.0
        self._came = 0
        # Bytes since the last piece of a body, or of the head.
        self._beside = 0
        self._leaving = False  # whether the next answer is the last
        self._deaf = False  # whether what comes is of no interest any more
        # Since when the client has been asked to take what waits, and how much that was.
        self._waiting: tuple[float, int] | None = None
        # A client that connects and says nothing is as idle as one between two requests.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._timer = self.loop.call_later(self._soonest(), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        reading, came = self._reading, self._came
        self._data = data
        super().data_received(data)
        if not self._reading:
            if not reading and (self.cycle is None or self.cycle.response_complete):
                self._begin("head")  # bytes that begin no message, such as empty lines
        elif self._reading == reading and self._came == came:
            self._beside += len(data)
            if self._beside > _MOST_HEAD:
                self._refuse(431, "the request's headers are larger than 64 KiB", "headers_too_large")

    def pause_writing(self) -> None:
        self._waiting = self.loop.time(), self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._waiting = None
        super().resume_writing()

    # -- httptools

    def on_message_begin(self) -> None:
        self._begin("head")
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._begin("body")
        if not self._offers():
            super().on_headers_complete()
            if self._leaving and self.cycle is not None:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._came += len(body)
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = ""
        if not self._offers():
            super().on_message_complete()

    def _offers(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _begin(self, what: str) -> None:
        self._reading, self._since, self._came, self._beside = what, self.loop.time(), 0, 0

    # -- the server's end

    def shutdown(self) -> None:
        """What runs is answered, and so is what is on its way: closing at once would reset it unread."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _close_idle(self) -> None:
        if not self._reading and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    # -- time

    def _soonest(self) -> float:
        settings = self.settings
        return min(settings.head_timeout, settings.body_timeout, settings.write_timeout)

    def _look(self) -> None:
        """Ends what has waited too long, and comes back when the next could have."""
        now = self.loop.time()
        due = min(self._due_reading(now), self._due_writing(now))
        later = now + self._soonest()
        self._timer = self.loop.call_at(later if due <= now else min(due, later), self._look)

    def _due_reading(self, now: float) -> float:
        """When what is being read is to be there. Refuses the request where that has passed."""
        if not self._reading:
            return now + self._soonest()
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._reading == "head":
            if answering:  # the next request, begun before its turn
                self._since = now
            due = self._since + self.settings.head_timeout
        else:
            if self.flow.read_paused:  # it is we who do not read
                self._since, self._came = now, 0
            due = self._since + self.settings.body_timeout
            if answering:  # else the rest of a body that nobody wants any more
                due += self._came / _SLOWEST
        if due <= now:
            self._refuse(408, f"the request's {self._reading} did not come in time", "request_timeout")
        return due

    def _due_writing(self, now: float) -> float:
        """When the client is to have taken something. Drops the connection where that has passed."""
        size = self.transport.get_write_buffer_size()
        answered = self.cycle is None or self.cycle.response_complete or self.transport.is_closing()
        # Otherwise there is room for more, and the answer goes on.
        if not size or not (self.flow.write_paused or answered):
            self._waiting = None
            return now + self._soonest()
        since, before = self._waiting = self._waiting or (now, size)
        due = since + self.settings.write_timeout
        if due > now:
            return due
        if before - size < _SLOWEST * (now - since):
            self.transport.abort()
            return now
        self._waiting = now, size
        return now + self.settings.write_timeout

    def timeout_keep_alive_handler(self) -> None:
        # A client that is still taking its answer is not idle; whether it does is looked at elsewhere.
        if self.transport.get_write_buffer_size():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    # -- what no handler sees

    def _unsupported_upgrade_warning(self) -> None:
        """A client may offer another protocol (Java's offers HTTP/2); the answer in this one declines it.

        The parser takes all behind the headers for the other protocol, so it is asked again without the offer.
        """
        if self.parser.get_method() == b"CONNECT":
            self._refuse(400, "CONNECT: this server is no proxy of that kind", "invalid_http")
            return
        refused = sys.exception()
        assert isinstance(refused, httptools.HttpParserUpgrade)
        kept = [h for h in self.headers if h[0] not in (b"connection", b"upgrade", b"http2-settings")]
        line = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        head = line + b"".join(b"%s: %s\r\n" % header for header in kept) + b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(head + self._data[refused.args[0] :])

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answers where nobody does yet, and closes."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and self._reading != "body":
            # The answer to what came before goes out; then it closes.
            cycle.keep_alive, self._deaf = False, True
            return
        waits = self._reading == "body" and cycle is not None and not cycle.response_started
        if not self.transport.is_closing() and (waits or self._reading != "body"):
            shape = (
                anthropic_error if getattr(self, "url", b"").startswith(b"/v1/messages") else error_response
            )
            response = shape(RequestError(message, status=status, code=code))
            headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + bytes(response.body))
        self._reading = ""
        self.transport.close()
