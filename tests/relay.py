"""A server between a client and another one: it counts what passes, can speak TLS, and can be told to keep silent."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Relay:
    """`sent` has the bytes of each PUT, by its path, as long as nobody clears it."""

    def __init__(self, target: str, certificate: Path | None = None) -> None:
        self.sent, self.silent_seconds = dict[str, int](), 0.0
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                time.sleep(relay.silent_seconds)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                request = urllib.request.Request(target + self.path, body or None, headers, method=self.command)
                if self.command == "PUT":
                    relay.sent[self.path] = len(body)
                try:
                    with urllib.request.urlopen(request) as answer:
                        status, told, kind = answer.status, answer.read(), answer.headers.get("Content-Type")
                except urllib.error.HTTPError as error:
                    status, told, kind = error.code, error.read(), error.headers.get("Content-Type")
                self.send_response(status)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_PUT = do_POST = do_DELETE = pass_on

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"http{'s' * (certificate is not None)}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def relay_to(target: str, certificate: Path | None = None) -> Iterator[Relay]:
    relay = Relay(target, certificate)
    try:
        yield relay
    finally:
        relay.close()


def own_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, and its key, in one file."""
    path = folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(folder / "authority.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (folder / "authority.pem").read_text())
    return path
