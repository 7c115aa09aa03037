"""The process in which eSpeak NG runs; `seqgan_jax.data.espeak` starts it and talks to it.

eSpeak NG keeps the phase of its pitch flutter and much else from one utterance to the next, and has
no call that resets it. Here each utterance is spoken by a fresh fork of a process that has
never spoken, so that what is heard depends on the request alone. A crash ends one fork only.

Requests are lines of JSON on standard input: {text, voice, rate, pitch} to speak, {text, voice,
ipa} for phonemes. A reply is one byte (0 for success), a length (8 bytes, little-endian) and that
many bytes: 16-bit samples, UTF-8 phonemes or an error message.
"""

import ctypes
import json
import os
import signal
import sys

# From speak_lib.h of eSpeak NG.
SYNCHRONOUS = 2
DONT_EXIT = 0x8000
RATE, PITCH = 1, 3
UTF8 = 1
IPA = 2


def main() -> None:
    # Ctrl-C in a terminal reaches this process too, which ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    library = ctypes.CDLL(sys.argv[1])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, sys.argv[2].encode(), DONT_EXIT)
    replies = sys.stdout.buffer
    replies.write(rate.to_bytes(8, "little", signed=True))
    replies.flush()
    for line in sys.stdin.buffer:
        status, reply = in_fork(library, json.loads(line))
        replies.write(bytes([status]) + len(reply).to_bytes(8, "little") + reply)
        replies.flush()


def in_fork(library: ctypes.CDLL, request: dict) -> tuple[int, bytes]:
    """The exit status, 0 to 255, and the output of a fork that answers the request."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status, reply = answer(library, request)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(reply)
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reply = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (status, reply) if status >= 0 else (1, f"it died of signal {-status}".encode())


def answer(library: ctypes.CDLL, request: dict) -> tuple[int, bytes]:
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        return 1, f"it has no voice '{request['voice']}'".encode()
    if "ipa" in request:
        return 0, phonemes(library, request["text"], request["ipa"])
    return speak(library, request["text"], request["rate"], request["pitch"])


def speak(library: ctypes.CDLL, text: str, rate: int, pitch: int) -> tuple[int, bytes]:
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, events):
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    # Its breath and roughness come from a generator of its own, seeded by the clock at the start,
    # and from the C library's.
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    ctypes.CDLL(None).srand(1)
    library.espeak_SetSynthCallback(keep)
    library.espeak_SetParameter(RATE, rate, 0)
    library.espeak_SetParameter(PITCH, pitch, 0)
    data = text.encode()
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        *[ctypes.c_uint] * 4,
        *[ctypes.c_void_p] * 2,
    ]
    if error := library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None):
        return 1, f"error {error}".encode()
    return 0, b"".join(chunks)


def phonemes(library: ctypes.CDLL, text: str, ipa: bool) -> bytes:
    translate = library.espeak_TextToPhonemes
    translate.restype = ctypes.c_char_p
    translate.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    buffer = ctypes.create_string_buffer(text.encode())
    position = ctypes.c_void_p(ctypes.addressof(buffer))
    clauses = []
    while position.value:  # one clause at a time; null after the last
        clauses.append(translate(ctypes.byref(position), UTF8, IPA if ipa else 0).strip())
    return b" ".join(filter(None, clauses))


if __name__ == "__main__":
    main()
