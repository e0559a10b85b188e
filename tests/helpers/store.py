"""A web server on loopback with files, ranges, listings and faults, as a store far away."""

import re
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Store(ThreadingHTTPServer):
    """Files by path, such as /a/b.tar.

    Attributes:
        lists: whether a path that ends in / is answered with links.
        ranges: whether parts of files are given.
        status: path -> number of the answer instead of the file.
        cut: path -> bytes after which each connection ends.
        latency_s: seconds before each answer.
        asked: (method, path, range) of each request.
        sent: bytes of files that were sent.
    """

    def __init__(self, files, lists=True, ranges=True, latency_s=0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.lists = lists
        self.ranges = ranges
        self.latency_s = latency_s
        self.status = {}
        self.cut = {}
        self.extra_links = ()
        self.asked = []
        self.sent = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that has left."""

    def links(self, folder):
        inside = {path[len(folder) :] for path in self.files if path.startswith(folder)}
        return sorted({re.match("[^/]*/?", name)[0] for name in inside}) + list(self.extra_links)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):  # noqa: N802
        self.answer(False)

    def do_GET(self):  # noqa: N802
        with suppress(ConnectionError):
            self.answer(True)

    def answer(self, with_body):
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
            headers["ETag"] = f'"{hash(content)}"'
            headers["Content-Type"] = "application/octet-stream"
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and store.ranges:
                status = 206
                first = int(asked[1])
                last = min(int(asked[2] or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content = content[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not with_body:
            return
        most = store.cut.get(path)
        if most is not None and len(content) > most:
            self.close_connection = True
            content = content[:most]
        store.sent += len(content)
        self.wfile.write(content)


@contextmanager
def serving(files, **options):
    store = Store(files, **options)
    threading.Thread(
        target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
