"""Real HTTP servers on loopback, in threads, that behave as badly as they are told to."""

import base64
import json
import re
import ssl
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, urlencode, urlsplit

USER, PASSWORD = "anna", "secret"


@contextmanager
def serve(answer, certificate=None):
    """Serve ``answer(handler, path, query)`` and yield the server's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = urlsplit(self.path)
            answer(self, parts.path, dict(parse_qsl(parts.query)))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, status, body, *, cut=None, **headers):
    """Send a body (JSON unless bytes); `cut` closes the connection after so many bytes of it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    headers = {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data[:cut])
    handler.close_connection = cut is not None


def send_file(handler, data, *, cut=None, ranges=True, etag="1"):
    """Send a file, from where the client's Range asks, if the server knows ranges and the version is the same."""
    asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    same = handler.headers.get("If-Range", etag) == etag
    if not (asked and ranges and same):
        return send(handler, 200, data, cut=cut, ETag=etag)
    start = int(asked[1])
    if start >= len(data):
        return send(handler, 416, b"")
    span = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return send(handler, 206, data[start:], cut=cut, ETag=etag, Content_Range=span)


class ExactServer:
    """Answers as EXACT does: pages of at most `most` entries, deleted annotations unless asked not to.

    Parameters
    ----------
    tables
        Entries by path below ``/api/v1/``.
    files
        Slides by the id of their image.
    """

    def __init__(self, tables, files=None, most=2):
        self.tables, self.files, self.most = tables, files or {}, most
        self.asked = []

    def __call__(self, handler, path, query):
        self.asked.append((path, query))
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if handler.headers.get("Authorization") != expected:
            return send(handler, 403, {"detail": "Invalid username/password."})
        if found := re.fullmatch(r"/images/api/image/download/(\d+)/", path):
            return send_file(handler, self.files[int(found[1])])
        entries = [e for e in self.tables[path.removeprefix("/api/v1/").strip("/")] if self._wanted(e, query)]
        first = int(query.get("offset", 0))
        last = first + min(int(query.get("limit", 50)), self.most)
        following = None
        if last < len(entries):
            # Recorded from a server behind a proxy: the host is not the one that was asked.
            following = "http://127.0.0.1:1" + path + "?" + urlencode({**query, "offset": last})
        body = {"count": len(entries), "next": following, "previous": None, "results": entries[first:last]}
        return send(handler, 200, body)

    @staticmethod
    def _wanted(entry, query):
        for key, value in query.items():
            if key in ("limit", "offset"):
                continue
            own = entry.get(key)
            if str(own) != value and not (isinstance(own, list) and int(value) in own):
                return False
        return True
