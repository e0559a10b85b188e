"""A web server on loopback with files, ranges, listings and faults, as a store far away.

`resnet-cli bench remote` measures with it, and the tests of `data/remote.py` break it.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Store(ThreadingHTTPServer):
    """Web server of files by path, such as /a/b.tar.

    Attributes:
        lists: whether a path that ends in / is answered with links.
        ranges: whether parts of files are given.
        described: whether sizes and versions are told.
        status: path -> number of the answer instead of the file.
        cut: path -> bytes after which each connection ends.
        silent: paths whose content never comes.
        extra_links: links in each listing, besides those of the files.
        latency_s: seconds before each answer.
        asked: (method, path, range) of each request.
        sent: bytes of files that were sent.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        lists: bool = True,
        ranges: bool = True,
        described: bool = True,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.lists = lists
        self.ranges = ranges
        self.described = described
        self.latency_s = latency_s
        self.status: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.silent: set[str] = set()
        self.extra_links: tuple[str, ...] = ()
        self.asked: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has left."""

    def links(self, folder: str) -> list[str]:
        """Return the links of a listing."""
        inside = {path[len(folder) :] for path in self.files if path.startswith(folder)}
        return sorted({re.match("[^/]*/?", name)[0] for name in inside}) + list(self.extra_links)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Leave the log of requests out, which would go to stderr."""

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer with the description of a file."""
        self._answer(has_body=False)

    def do_GET(self) -> None:  # noqa: N802
        """Answer with a file, the range of bytes that is asked for, or a listing."""
        with suppress(ConnectionError):
            self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        store = self.server
        path = self.path.partition("?")[0]
        store.asked.append((self.command, path, self.headers.get("Range")))
        time.sleep(store.latency_s)
        content = store.files.get(path)
        headers = {}
        status = store.status.get(path, 200 if content is not None else 404)
        folder = path.rstrip("/") + "/"
        if content is None and store.lists and store.links(folder) and status == 404:
            status = 200
            content = "".join(f'<a href="{name}">x</a>' for name in store.links(folder)).encode()
            headers["Content-Type"] = "text/html"
        elif status != 200:
            content = b""
        else:
            if store.described:
                headers["ETag"] = f'"{hash(content)}"'
            headers["Content-Type"] = "application/octet-stream"
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and store.ranges:
                status = 206
                first = int(asked[1])
                last = min(int(asked[2] or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content = content[first : last + 1]
        if store.described or status != 200:
            headers["Content-Length"] = str(len(content))
        else:
            headers["Connection"] = "close"  # the end of the content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not has_body:
            return
        if path in store.silent:
            store.closing.wait()
            self.close_connection = True
            return
        most = store.cut.get(path)
        if most is not None and len(content) > most:
            self.close_connection = True
            content = content[:most]
        store.sent += len(content)
        self.wfile.write(content)


@contextmanager
def serving(files: Mapping[str, bytes], **options: Any) -> Iterator[Store]:
    """Serve files by path, as a thread.

    Args:
        files: content by path.
        options: see `Store`.
    """
    store = Store(files, **options)
    # half a second until the end is noticed would be most of a test
    threading.Thread(
        target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield store
    finally:
        store.closing.set()
        store.shutdown()
        store.server_close()
