"""A server between a client and another one: it counts what passes, can speak TLS, and can be told to keep silent."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from loopback import Handler, LoopbackServer


class Relay(LoopbackServer):
    """`sent` has the bytes of each PUT, by its path, as long as nobody clears it."""

    def __init__(self, target: str, certificate: Path | None = None) -> None:
        self.sent, self.silent_seconds = dict[str, int](), 0.0
        relay = self

        class Passing(Handler):
            def pass_on(self) -> None:
                body = self.body()
                if self.command == "PUT":
                    relay.sent[self.path] = len(body)
                time.sleep(relay.silent_seconds)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                request = urllib.request.Request(target + self.path, body or None, headers, method=self.command)
                try:
                    answer = urllib.request.urlopen(request)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    self.whole(answer.status, answer.headers.get("Content-Type", "text/plain"), answer.read())

            do_GET = do_PUT = do_POST = do_DELETE = pass_on

        self.serve(Passing, certificate)


@contextlib.contextmanager
def relay_to(target: str, certificate: Path | None = None) -> Iterator[Relay]:
    relay = Relay(target, certificate)
    try:
        yield relay
    finally:
        relay.close()


def own_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, with its key, in one file; the certificate alone in `authority.pem`."""
    path = folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(folder / "authority.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (folder / "authority.pem").read_text())
    return path
