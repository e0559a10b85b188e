"""A hub of weights on loopback: files at paths, served plainly and as Hugging Face does."""

import hashlib
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + 34 * "0"


class Hub(ThreadingHTTPServer):
    """Files by path; `redirects` from path to path, `cut` paths end in the middle, `silent` ones
    never answer. With `ranges`, the rest of a file is given; `first_bytes` says from where.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.redirects = {}
        self.cut = set()
        self.silent = set()
        self.asked = []
        self.ranges = False
        self.first_bytes = []
        self.over = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path, content):
        self.files[path] = content
        return hashlib.sha256(content).hexdigest()

    def handle_error(self, request, client_address):
        """A client that has left."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        hub = self.server
        path = self.path.partition("?")[0]
        hub.asked.append(path)
        if path in hub.silent:
            hub.over.wait(30)
            return
        if path in hub.redirects:
            self.send_response(302)
            self.send_header("location", hub.url + hub.redirects[path])
            self.end_headers()
            return
        content = hub.files.get(path)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        first = int(asked[1]) if asked and hub.ranges and content is not None else 0
        if content is not None:
            hub.first_bytes.append(first)
        status = 206 if first else 200
        self.send_response(404 if content is None else status)
        self.send_header("x-repo-commit", COMMIT)
        if content is None:
            self.send_header("x-error-code", "EntryNotFound")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
        if first:
            self.send_header("content-range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            content = content[first:]
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if path in hub.cut else content)


@contextmanager
def serving():
    """Run a hub in a thread."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.over.set()
        hub.shutdown()
        hub.server_close()
