"""Google Cloud's notice that this machine will soon be taken away.

A virtual machine asks its metadata server (a spot one has 30 seconds from then on, one that is
moved for maintenance an hour or less). What others send is a signal, which `loop` takes itself.
"""

import http.client
import os
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

# The entries that tell, and what they say then.
_NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is in no proxy's reach
_MACHINE = Path("/sys/class/dmi/id/product_name")


class PreemptionNotice:
    """Asks the metadata server, in the background, and tells of its notice once.

    A context manager. It does nothing on machines that are not Google's.

    Args:
      function: is told which entry says so.
      seconds: between questions.
    """

    def __init__(self, function: Callable[[str], None], seconds: float = 2.0):
        self._function = function
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="preemption", daemon=True)
        self._there = on_google_cloud()

    def __enter__(self) -> "PreemptionNotice":
        if self._there:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        if self._there:
            self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(self._seconds):
            for entry, told in _NOTICES.items():
                if _entry(entry) == told:
                    self._function(entry)
                    return


def on_google_cloud() -> bool:
    """Whether this machine has a metadata server, as Google's own libraries find out."""
    if "GCE_METADATA_HOST" in os.environ:
        return True
    try:
        return _MACHINE.read_text().startswith("Google")
    except OSError:
        return False


def _entry(name: str) -> str:
    """What the metadata server says of this machine; '' where it doesn't answer."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with _OPENER.open(request, timeout=1) as answer:
            return answer.read().decode().strip()
    except (OSError, http.client.HTTPException):
        return ""
