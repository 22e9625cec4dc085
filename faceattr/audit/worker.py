"""A worker process: parts come on its standard input, rows go out on its standard output.

`python -m faceattr.audit.worker`, started by `engine_local`. It ends when its input does, so none
outlives the run that it belongs to, however that ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from typing import Any, BinaryIO

from faceattr.audit.store import Store
from faceattr.audit.work import Worker
from faceattr.errors import FaceAttrError


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def peak_megabytes() -> float:
    """Largest resident memory of this process so far in MiB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    # Linux counts what the starting process held into `ru_maxrss` of the started one.
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    # Kilobytes, on macOS bytes.
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> int:
    """Answer one message a part until the input ends."""
    # Ctrl-C reaches every process of the terminal; the run's own decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = sys.stdin.buffer
    # What a library prints must not get between the messages.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings, folder = pickle.load(source)
    try:
        worker = Worker(settings)
        store = Store(folder, settings.columns)
    except FaceAttrError as error:
        send(target, ("failed", str(error)))
        return 1
    send(target, ("ready", worker.pipeline.info))
    while True:
        try:
            number, digest, first, refs, skip, alone = pickle.load(source)
        except EOFError:
            return 0
        try:
            content = worker.table(
                first,
                refs,
                skip=skip,
                alone=(lambda position: send(target, ("at", position))) if alone else None,
            )
            store.save(number, digest, content)
        except FaceAttrError as error:
            send(target, ("failed", str(error)))
            return 1
        send(target, ("done", peak_megabytes()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The run that this process belongs to was killed; its successor does the part again.
        os._exit(1)
