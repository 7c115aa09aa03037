"""A bucket on this machine: the emulator of Google Cloud Storage that PyPI has, in this process.

It would serve one connection at a time; here it takes several, and answers one after the other.
"""

import contextlib
import logging
import os
import socketserver
import threading
from collections.abc import Iterator
from http import server as http_server
from unittest import mock

from gcp_storage_emulator import server

BUCKET = "runs"


_lock = threading.Lock()


class _Router(server.Router):
    def handle(self, method):
        with _lock:
            super().handle(method)


class _Server(socketserver.ThreadingMixIn, http_server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        """A client that didn't wait for the answer is no error."""


@contextlib.contextmanager
def emulated() -> Iterator[dict[str, str]]:
    """A bucket 'runs': the environment by which a process of ours finds it."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(http_server, "HTTPServer", _Server))
        stack.enter_context(mock.patch.object(server, "Router", _Router))
        found = stack.enter_context(
            server.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
        )
        address = f"http://127.0.0.1:{found._api._httpd.server_port}"
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # needs credentials
        }
