"""A real S3 server for tests: moto's, a process of its own in an environment of its own, ended by its process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from places import free_ports

PROGRAM = Path(__file__).parent.parent / ".moto" / "bin" / "moto_server"
REGION = "us-east-1"
UNSET = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3")


def program() -> str:
    """Of no other place: moto 5.2.1 answers the end of an upload in parts with what pyarrow takes for an error."""
    return str(PROGRAM) if PROGRAM.is_file() else ""


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Skips the tests where there can be none, unless DISTILSEARCH_S3=required says that there has to be."""
    if not program():
        reason = "no moto_server here: `make .moto/.ready`"
        pytest.fail(reason) if os.environ.get("DISTILSEARCH_S3") == "required" else pytest.skip(reason)
    server = S3Server(Path(tempfile.mkdtemp(prefix="moto-")))
    try:
        yield server
    finally:
        server.close()


class S3Server:
    """`bucket` makes one; `environment` is what reaches it, `line` being what can be cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self.port,) = free_ports(1)
        with open(folder / "log.txt", "w") as log:
            self._process = subprocess.Popen(
                [program(), "-H", "127.0.0.1", "-p", str(self.port)], stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "inf"},
            )  # fmt: skip
        self._buckets = 0
        end = time.monotonic() + 120
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
            assert self._process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < end, (folder / "log.txt").read_text()
            time.sleep(0.05)
        self.line = Line(self.port)
        self.environment = self.credentials("tests", "secret-of-tests")

    def credentials(self, key: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.line.port}", "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def bucket(self) -> str:
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self._call("PUT", f"/{name}", service="s3")
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Straight from the server, without the code that is tested; what stands for a folder is none."""
        listing = self._call("GET", f"/{bucket}?list-type=2&prefix={prefix}", service="s3")
        found = [entry.text or "" for entry in ElementTree.fromstring(listing).iter() if entry.tag.endswith("}Key")]
        return [key for key in found if not key.endswith("/")]

    def get(self, bucket: str, key: str) -> bytes:
        return self._call("GET", f"/{bucket}/{key}", service="s3")

    def delete(self, bucket: str, key: str) -> None:
        self._call("DELETE", f"/{bucket}/{key}", service="s3")

    def user_without_rights(self) -> dict[str, str]:
        """From here on everyone is asked for rights, and this one has none."""
        ask = {"Version": "2010-05-08", "UserName": "someone"}
        self._call("POST", "/", service="iam", data=urllib.parse.urlencode({**ask, "Action": "CreateUser"}).encode())
        made = self._call(
            "POST", "/", service="iam", data=urllib.parse.urlencode({**ask, "Action": "CreateAccessKey"}).encode()
        )
        found = {each.tag.rpartition("}")[2]: each.text or "" for each in ElementTree.fromstring(made).iter()}
        self._call("POST", "/moto-api/reset-auth", service="s3", data=b"0", kind="text/plain")
        return self.credentials(found["AccessKeyId"], found["SecretAccessKey"])

    def _call(
        self, method: str, path: str, service: str, data: bytes | None = None,
        kind: str = "application/x-www-form-urlencoded",
    ) -> bytes:  # fmt: skip
        who = f"AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=x"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, method=method,
            headers={"Authorization": who, "Content-Type": kind},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def close(self) -> None:
        self.line.close()
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Line:
    """A line to a server that can be cut, at once or once so much was sent: while it is, who calls is hung up on."""

    def __init__(self, port: int) -> None:
        self._to, self.is_cut, self.after_bytes, self.sent = port, False, 0, 0
        self.calls = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def cut(self) -> None:
        self.is_cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut_after(self, num_bytes: int) -> None:
        self.sent, self.after_bytes = 0, num_bytes

    def mend(self) -> None:
        self.is_cut, self.after_bytes = False, 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.calls += 1
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open = [*self._open[-50:], near, far]
                for ends in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: Any, sink: Any, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asks:
                    self.sent += len(data)
                    if self.after_bytes and self.sent > self.after_bytes:
                        self.cut()
                        break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
