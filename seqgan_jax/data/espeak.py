"""Speech by eSpeak NG, a formant synthesiser for over a hundred languages.

eSpeak NG is licensed under the GPL, version 3 or later; nothing of it is part of this package. The
extra `speech` installs it (PyPI's `espeakng-loader` holds its library and data) and it runs in a
process of its own.
"""

import functools
import importlib.metadata
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from seqgan_jax.errors import UserError

INSTALL = "pip install 'seqgan_jax[speech]'"
RATES = (80, 450)
PITCHES = (0, 99)
# Its IPA keeps only the first digit of a tone's contour, so that Mandarin's first and fourth tones
# look alike. Its own notation has all of it.
CONTOUR_TONES = ("cmn", "hak")


class Espeak:
    """A running eSpeak NG. What it says is a pure function of the arguments.

    Attributes:
      sample_rate: of what it says, Hz.
      version: of the package that holds it; another one may speak differently.
    """

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                f"speech by eSpeak NG (licensed under the GPL 3) is not installed; run {INSTALL}"
            ) from error
        self.version = f"espeakng-loader {importlib.metadata.version('espeakng-loader')}"
        library, self._data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        worker = Path(__file__).with_name("espeak_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(worker), library, self._data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.Lock()
        self.sample_rate = int.from_bytes(self._read(8), "little", signed=True)
        if self.sample_rate <= 0:
            raise UserError(f"eSpeak NG can't read its data in {self._data}; {INSTALL} again")

    def speak(self, text: str, voice: str, *, rate: int, pitch: int) -> np.ndarray:
        """Says `text`.

        Args:
          text: in the language's usual spelling.
          voice: a language and optionally a variant, 'en-us+f2'. See `check_voice`.
          rate: words per minute, 80 to 450.
          pitch: 0 to 99; 50 is usual.

        Returns:
          float32 [samples] at `sample_rate`, in -1 to 1.

        Raises:
          UserError: for a text with nothing to say.
        """
        reply = self._ask({"text": text, "voice": voice, "rate": rate, "pitch": pitch})
        audio = np.frombuffer(reply, np.int16).astype(np.float32) / 32768
        if not audio.any():
            raise UserError(f"eSpeak NG finds nothing to say in '{text}' (voice {voice})")
        return audio

    def phonemes(self, text: str, voice: str) -> str:
        """The text as it is pronounced, in IPA, words separated by spaces.

        For languages whose tones are contours (Mandarin, Hakka) in eSpeak NG's own notation,
        because its IPA doesn't tell all of these tones from one another.
        """
        ipa = voice.split("+")[0].split("-")[0] not in CONTOUR_TONES
        return self._ask({"text": text, "voice": voice, "ipa": ipa}).decode()

    def check_voice(self, voice: str) -> None:
        """Raises a UserError if the language or the variant doesn't exist."""
        # The library itself ignores a variant that it doesn't know.
        _, plus, variant = voice.partition("+")
        variants = Path(self._data) / "voices" / "!v"
        if plus and not (variants / variant).is_file():
            names = ", ".join(sorted(path.name for path in variants.iterdir()))
            raise UserError(f"config.data.voices: no voice '{variant}'; choose from {names}")
        try:
            self.phonemes("1", voice)
        except UserError as error:
            raise UserError(
                f"config.data.language: eSpeak NG can't speak '{voice.partition('+')[0]}'; "
                "choose a code like en-us, de, cmn (Mandarin)"
            ) from error

    def _ask(self, request: dict) -> bytes:
        with self._lock:  # batches are read in threads
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            head = self._read(9)
            reply = self._read(int.from_bytes(head[1:], "little"))
        if head[0]:
            raise UserError(f"eSpeak NG can't say '{request['text']}': {reply.decode()}")
        return reply

    def _read(self, count: int) -> bytes:
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise RuntimeError(f"eSpeak NG's process ended (status {self._process.poll()})")
        return data


@functools.cache
def espeak() -> Espeak:
    """This process's eSpeak NG, started when first needed."""
    return Espeak()
