"""A bucket in this process: the part of Google Cloud Storage's JSON API that checkpoints need.

For gcsfs, by which `etils.epath` reads and writes, and for TensorStore, which writes arrays. An
object is there whole or not at all and has a generation, which writing may be conditional on.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "runs"
_PATH = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?")


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}  # generation and content, by name
        self.uploads: dict[str, tuple[str, bytes]] = {}  # name and what has come, by number
        self.lock = threading.Lock()
        self.generations = itertools.count(1)

    def handle_error(self, *_):
        """A client that is killed is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, method):
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = _PATH.fullmatch(parts.path)
        status, content, headers = 404, b"", {}
        with self.server.lock:
            if found and found[1] == BUCKET:
                status, content, headers = method(unquote(found[2] or ""), query, body)
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def _told(self, name):
        generation, content = self.server.objects[name]
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "updated": "2024-01-01T00:00:00.000Z",
            "timeCreated": "2024-01-01T00:00:00.000Z",
        }

    def _fits(self, name, query):
        """Whether an object's generation, 0 for none, is as a request wants it."""
        generation = str(self.server.objects.get(name, (0,))[0])
        return (
            query.get("ifGenerationMatch", generation) == generation
            and query.get("ifGenerationNotMatch") != generation
        )

    def _get(self, name, query, body):
        if not name:
            return self._list(query)
        if name not in self.server.objects:
            return 404, b"", {}
        if not self._fits(name, query):
            return 304, b"", {}
        if query.get("alt") != "media":
            return _json(self._told(name))
        generation, content = self.server.objects[name]
        headers = {"x-goog-generation": generation, "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, content, headers
        first, size = int(asked[1]), len(content)
        if first >= size:
            return 416, b"", {"Content-Range": f"bytes */{size}"}
        last = min(int(asked[2] or size), size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, content[first : last + 1], headers

    def _list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.server.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self._told(name))
        return _json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _post(self, name, query, body):
        if "upload_id" in query:
            return self._more(query, body)
        if query["uploadType"] == "resumable":
            number = str(next(self.server.generations))
            self.server.uploads[number] = json.loads(body)["name"], b""
            where = f"http://{self.headers['Host']}{urlsplit(self.path).path}?upload_id={number}"
            return 200, b"", {"Location": where}
        if query["uploadType"] == "multipart":
            boundary = re.search('boundary="?([^"]+)', self.headers["Content-Type"])[1].encode()
            told, body = (part.partition(b"\n\n")[2] for part in body.split(b"--" + boundary)[1:3])
            query["name"], body = json.loads(told)["name"], body[:-1]
        if not self._fits(query["name"], query):
            return 412, b"", {}
        self.server.objects[query["name"]] = (next(self.server.generations), body)
        return _json(self._told(query["name"]))

    def _more(self, query, body):
        """More of a large object; it is there when all of it is."""
        name, before = self.server.uploads[query["upload_id"]]
        content = before + body
        self.server.uploads[query["upload_id"]] = name, content
        if not self.headers["Content-Range"].endswith(f"/{len(content)}"):
            return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"}
        self.server.objects[name] = (next(self.server.generations), content)
        return _json(self._told(name))

    def _delete(self, name, query, body):
        if name not in self.server.objects:
            return 404, b"", {}
        if not self._fits(name, query):
            return 412, b"", {}
        del self.server.objects[name]
        return 204, b"", {}


def _json(content):
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}


@contextlib.contextmanager
def emulated() -> Iterator[dict[str, str]]:
    """A bucket 'runs': the environment in which a process of ours finds it."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would look for credentials
            "GCE_METADATA_ROOT": "127.0.0.1:1",  # TensorStore would ask there for credentials
        }
        server.shutdown()
