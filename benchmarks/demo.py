"""Visitors of the demonstration page: a run is asked by many at once for a while.

    python benchmarks/demo.py --workdir=runs/oracle-smoke [--clients=20] [--seconds=60]
        [--image=photo.jpg] [--text=...] [--video=clip.mp4 --mask=x,y,w,h]

Every visitor is a thread with a connection of its own: it sends a request with a new seed, waits
for the answer and sends the next; every tenth one makes no sense and must be refused. Each line is
a JSON object. `demo/failures`: requests that ended otherwise. `demo/answers`: answers a second.
`demo/wait`: seconds from request to answer, the median and the 95th percentile. Exit status 1 if
there was a failure.
"""

import json
import logging
import statistics
import sys
import threading
import time

import gradio_client
from absl import app, flags

from seqgan_jax import demo
from seqgan_jax.programs.start import compilation_cache

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
CLIENTS = flags.DEFINE_integer("clients", 20, "Visitors at once.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 60.0, "For how long.", lower_bound=0.0)
IMAGE = flags.DEFINE_string("image", None, "For captions: the picture that all send.")
TEXT = flags.DEFINE_string("text", None, "For translation and speech: the text that all send.")
VIDEO = flags.DEFINE_string("video", None, "For video: the clip that all send.")
MASK = flags.DEFINE_string("mask", None, "For video: the hole in it.")
SAMPLES = flags.DEFINE_integer("num_samples", 3, "Sequences a request.", lower_bound=1)


def sources(page):
    """What a visitor fills in, in the page's order."""
    given = {
        "image": IMAGE.value and gradio_client.handle_file(IMAGE.value),
        "text": TEXT.value,
        "speaker": None,
        "video": VIDEO.value and gradio_client.handle_file(VIDEO.value),
        "mask": MASK.value,
    }
    return [given.get(name) for name in page.sources]


class Visitor(threading.Thread):
    """Asks again and again until the time is over."""

    def __init__(self, number, url, asked, until):
        super().__init__()
        self.number, self.asked, self.until = number, asked, until
        self.waits, self.refused, self.failures = [], 0, []
        self.client = gradio_client.Client(url, verbose=False)

    def run(self):
        count = self.number
        while time.monotonic() < self.until:
            count += 1
            self.ask(count, wrong=count % 10 == 0)

    def ask(self, seed, wrong):
        values = {name: r.value for name, r in demo.RANGES.items()}
        values |= {"num_samples": SAMPLES.value, "seed": seed}
        prefix = "x" * (demo.TEXT + 1) if wrong else ""
        began = time.monotonic()
        try:
            self.client.predict(*self.asked, *values.values(), prefix, False, api_name="/write")
            self.waits.append(time.monotonic() - began)
            if wrong:
                self.failures.append("a request that makes no sense was answered")
        except Exception as error:
            if wrong and "characters are more than" in str(error):
                self.refused += 1
            else:
                self.failures.append(repr(error))


def line(name, figure, unit, **more):
    print(json.dumps({"name": name, "figure": figure, "unit": unit, **more}))


def main(_):
    compilation_cache()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    blocks = demo.serve(WORKDIR.value)
    try:
        asked = sources(blocks.page)
        first = Visitor(0, blocks.local_url, asked, 0.0)
        first.ask(0, wrong=False)  # compiles
        until = time.monotonic() + SECONDS.value
        visitors = [Visitor(i, blocks.local_url, asked, until) for i in range(CLIENTS.value)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
    finally:
        blocks.close(verbose=False)
    failures = [failure for visitor in (first, *visitors) for failure in visitor.failures]
    waits = sorted(wait for visitor in visitors for wait in visitor.waits)
    refused = sum(visitor.refused for visitor in visitors)
    how = {"task": blocks.page.model.task.name, "clients": CLIENTS.value, "seconds": SECONDS.value}
    line("demo/failures", len(failures), "requests", refused=refused, first=failures[:3], **how)
    line("demo/answers", len(waits) / SECONDS.value, "1/s", answers=len(waits), **how)
    if len(waits) > 1:
        tail = statistics.quantiles(waits, n=20)[-1]
        line("demo/wait", statistics.median(waits), "s", percentile_95=tail, **how)
    sys.exit(bool(failures))


if __name__ == "__main__":
    app.run(main)
