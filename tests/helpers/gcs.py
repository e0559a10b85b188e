"""The part of Google Cloud Storage's JSON API that reading needs, on loopback."""

import json
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket(ThreadingHTTPServer):
    """Objects of one bucket by name.

    Attributes:
        cut: bytes after which the next answer with content ends; None: it does not.
        asked: (path, range) of each request.
        sent: bytes of objects that were sent.
    """

    def __init__(self, name, objects):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.objects = objects
        self.cut = None
        self.asked = []
        self.sent = 0

    def handle_error(self, request, client_address):
        """A client that has left."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802
        bucket = self.server
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        bucket.asked.append((parts.path, self.headers.get("Range")))
        found = re.fullmatch(rf"(/download)?/storage/v1/b/{bucket.name}/o(/(.+))?", parts.path)
        name = unquote(found[3] or "") if found else ""
        with suppress(ConnectionError):
            if found and not name:
                self.tell(200, self.listing(query))
            elif name not in bucket.objects:
                self.tell(404, {"error": {"code": 404, "message": "Not Found"}})
            elif found[1] or query.get("alt") == "media":
                self.give(bucket.objects[name])
            else:
                self.tell(200, self.described(name))

    def listing(self, query):
        prefix = query.get("prefix", "")
        items = []
        folders = set()
        for name in sorted(self.server.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if query.get("delimiter") and "/" in rest:
                folders.add(prefix + rest.partition("/")[0] + "/")
            else:
                items.append(self.described(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def described(self, name):
        content = self.server.objects[name]
        return {
            "kind": "storage#object",
            "bucket": self.server.name,
            "name": name,
            "size": str(len(content)),
            "etag": str(hash(content)),
            "generation": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def give(self, content):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status = 200
        headers = {"Content-Type": "application/octet-stream"}
        if asked:
            status = 206
            first = int(asked[1])
            last = min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self.begin(status, len(content), headers)
        if self.server.cut is not None:
            content = content[: self.server.cut]
            self.close_connection = True
        self.server.sent += len(content)
        self.wfile.write(content)

    def tell(self, status, document):
        content = json.dumps(document).encode()
        self.begin(status, len(content), {"Content-Type": "application/json"})
        self.wfile.write(content)

    def begin(self, status, size, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()


@contextmanager
def serving(name, objects, monkeypatch):
    """Serve a bucket, to which gcsfs is led."""
    bucket = Bucket(name, objects)
    interval = {"poll_interval": 0.02}
    threading.Thread(target=bucket.serve_forever, kwargs=interval, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{bucket.server_port}")
    try:
        yield bucket
    finally:
        bucket.shutdown()
        bucket.server_close()
