"""The report's page on this machine's loopback, which follows runs while they grow.

`resnet-cli compare runs/digits --serve`

A browser asks every few seconds; the runs are read again only then. The address holds a random
word, since other users of a login node reach its loopback too.
"""

import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lightning_resnet.errors import UserError, one_line

HOST = "127.0.0.1"
PORT = 8765
LEAST_S = 5.0  # seconds between two readings of the runs
SHARE = 5  # the reading may take one in so many seconds
NAMES = ("127.0.0.1", "localhost", "[::1]")  # of hosts in the address; others are foreign pages


class Newest:
    """The newest page, read again where it is old.

    Args:
        make: returns the text of the page; raises UserError where the runs cannot be read.
        first: the text of the first page.
    """

    def __init__(self, make: Callable[[], str], first: str) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._due = time.monotonic() + LEAST_S
        self._content = first.encode()

    def content(self) -> bytes:
        """Return the page; the last one that could be made where the runs cannot be read."""
        with self._lock:
            begin = time.monotonic()
            if begin >= self._due:
                try:
                    self._content = self._make().encode()
                except (UserError, OSError) as error:  # a run may be removed in between
                    print(f"not drawn again: {one_line(error)}", flush=True)
                end = time.monotonic()
                self._due = end + max(LEAST_S, SHARE * (end - begin))
            return self._content


def serve(
    server: ThreadingHTTPServer, make: Callable[[], str], first: str, tell: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C, and close the server.

    Args:
        server: from `listen`.
        make: returns the text of a new page.
        first: the text of the first page.
        tell: prints where the page is.
    """
    newest = Newest(make, first)
    path = f"/{secrets.token_urlsafe(12)}/"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(True)

        def do_HEAD(self) -> None:
            self._answer(False)

        def _answer(self, with_body: bool) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host")
            # a page of another site whose name leads here must not read this one
            is_ours = host in NAMES and self.path.partition("?")[0] == path
            content = newest.content() if is_ours else b"not found: the address ends in a word\n"
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            is_same = is_ours and self.headers.get("If-None-Match") == tag
            if is_same:
                self.send_response(304)
            else:
                self.send_response(200 if is_ours else 404)
                kind = "html" if is_ours else "plain"
                self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", tag)
            self.send_header("Cache-Control", "no-cache")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            if with_body and not is_same:
                try:
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the browser has left

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing of each request."""

    server.RequestHandlerClass = Handler
    with server:
        bound = server.server_address[1]
        tell(f"open http://{HOST}:{bound}{path} (Ctrl-C stops)")
        tunnel = f"ssh -N -L {bound}:{HOST}:{bound} {socket.gethostname()}"
        tell(f"from another machine: {tunnel}, then the same address")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            tell("stopped")


def listen(port: int) -> ThreadingHTTPServer:
    """Return a server that listens on loopback, and answers once `serve` has it.

    Args:
        port: to listen on; 0: `PORT`, or a free one.

    Raises:
        UserError: the port is taken, or may not be used.
    """
    for wanted in [port] if port else [PORT, 0]:
        try:
            server = ThreadingHTTPServer((HOST, wanted), BaseHTTPRequestHandler)
        except OverflowError as error:
            raise UserError(f"--port {port}: a port is 1 to 65535; leave --port out") from error
        except OSError as error:
            problem = error
            continue
        server.daemon_threads = True
        return server
    raise UserError(
        f"--port {port}: {one_line(problem)}; choose another, or leave --port out"
    ) from problem
