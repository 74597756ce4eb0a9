"""The report served while a study runs: on loopback alone, made again when the record changed, by the standard library."""

from __future__ import annotations

import hashlib
import html
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from search.results.report import report_page
from search.study.output import from_record, records_of, reported, spec_of
from spaces.errors import InputError, StudyError
from spaces.secrets import mask_secrets

LOOPBACK = "127.0.0.1"
NOT_OURS = "this server answers to its own address alone"
LOOK_EVERY_SECONDS = 2.0  # at most, and no more than a tenth of the time
WAITING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>waiting</title></head>
<body><p>{}</p><p>This page looks again by itself.</p></body></html>
"""


class LiveReport:
    """The report of the study in a folder as its record stands. It reads and writes nothing: whoever runs the study is not
    disturbed. Nothing is done as long as nobody asks."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec_of(folder)
        self._record, self._again = records_of(self._spec, folder)
        self._clock, self._next_look = clock, 0.0
        self._lock = threading.Lock()
        self._seen: Any = None
        self._page = WAITING.format("Nothing is measured yet.")

    def page(self) -> str:
        with self._lock:
            begun = self._clock()
            if begun >= self._next_look:
                try:
                    self._look()
                except StudyError as error:
                    self._page = WAITING.format(html.escape(str(mask_secrets(str(error)))))
                except SQLAlchemyError:
                    pass  # locked for a moment: what was seen last still holds
                now = self._clock()
                self._next_look = now + max(LOOK_EVERY_SECONDS, 10 * (now - begun))
            return self._page

    def version(self) -> str:
        return hashlib.sha256(self.page().encode()).hexdigest()[:16]

    def _look(self) -> None:
        outcomes, confirmations = self._record.outcomes(), self._again.outcomes()
        facts = [self._record.fact(name) for name in ("references", "delivered", "stages", "runs")]
        seen = (outcomes, confirmations, facts)
        if seen != self._seen:
            result = from_record(self._spec, self._record, self._again)
            self._page = report_page(**reported(result, self._record, confirmations), live=True)
            self._seen = seen


def own_address(host: str | None) -> bool:
    """Whether a request names this machine by its loopback; a page from elsewhere, whose name now leads here, does not."""
    return (host or "").rsplit(":", 1)[0] in (LOOPBACK, "localhost")


def report_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the live report, bound but not yet serving; port 0 takes a free one. Raises InputError where it is taken."""
    report = LiveReport(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not own_address(self.headers.get("Host")):
                self._answer(403, NOT_OURS)
            elif self.path == "/":
                self._answer(200, report.page(), "text/html")
            elif self.path == "/version":
                self._answer(200, report.version())
            else:
                self._answer(204 if self.path == "/favicon.ico" else 404, "")

        def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
            body = text.encode()
            self.send_response(status)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
            headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: who looked is nobody's business."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.of("--port", f"{port} cannot be used: {reason}; name another, or leave it out") from None
