"""Google Cloud's notice of preemption, from a metadata server on this machine."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from seqgan_jax.training import preemption
from seqgan_jax.training.preemption import PreemptionNotice, on_google_cloud


@pytest.fixture
def entries(monkeypatch):
    """What the server says, by entry; others are not there."""
    entries = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = name in entries and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(entries[name].encode() if known else b"")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield entries
        server.shutdown()


@pytest.mark.parametrize(
    ("entry", "before", "after"),
    [
        ("preempted", "FALSE", "TRUE"),
        ("maintenance-event", "NONE", "TERMINATE_ON_HOST_MAINTENANCE"),
    ],
)
def test_a_notice_is_told_of_once(entries, entry, before, after):
    told = []
    entries[entry] = before
    with PreemptionNotice(told.append, seconds=0.01):
        time.sleep(0.1)
        assert not told
        entries[entry] = after
        deadline = time.monotonic() + 60
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
    assert told == [entry]


def test_elsewhere_nobody_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(preemption, "_MACHINE", tmp_path / "product_name")
    assert not on_google_cloud()
    (tmp_path / "product_name").write_text("Standard PC\n")
    assert not on_google_cloud()
    monkeypatch.setattr(preemption, "_entry", lambda name: pytest.fail("asked"))
    with PreemptionNotice(lambda entry: pytest.fail("told"), seconds=0.01):
        time.sleep(0.05)
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert on_google_cloud()
