#!/usr/bin/env python3
"""Seeded mutations of picture files through `decode_image`: a result or an `ImageDecodeError`.

Anything else, more than --seconds for one file, or more than --memory above the start ends in
exit status 1; the JSON names the seeds, and `--only SEED` runs one again.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image, features  # noqa: E402

from faceattr.errors import ImageDecodeError  # noqa: E402
from faceattr.images import decode_image  # noqa: E402
from faceattr.limits import UPLOAD_BYTES, UPLOAD_PIXELS  # noqa: E402


def originals() -> dict[str, bytes]:
    """Small files of every format that is read, in several of its kinds."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)
    smooth = Image.fromarray(noise[:, :, :3]).resize((96, 80), Image.Resampling.BICUBIC)
    clear = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("jpeg", smooth, "JPEG", {"exif": exif.tobytes()}),
        ("progressive jpeg", smooth, "JPEG", {"progressive": True}),
        ("cmyk jpeg", smooth.convert("CMYK"), "JPEG", {}),
        ("mpo", smooth, "MPO", {"save_all": True, "append_images": [smooth]}),
        ("png", smooth, "PNG", {"exif": exif.tobytes()}),
        ("palette png", smooth.quantize(16), "PNG", {"transparency": 3}),
        ("transparent png", clear, "PNG", {}),
        ("16-bit png", Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
        ("apng", smooth, "PNG", {"save_all": True, "append_images": [smooth]}),
        ("gif", smooth, "GIF", {"save_all": True, "append_images": [smooth.rotate(9)]}),
        ("webp", smooth, "WEBP", {}),
        ("lossless webp", clear, "WEBP", {"lossless": True, "exif": exif.tobytes()}),
        ("bmp", smooth, "BMP", {}),
        ("palette bmp", smooth.quantize(16), "BMP", {}),
        ("tiff", smooth, "TIFF", {}),
        ("lzw tiff", smooth, "TIFF", {"compression": "tiff_lzw"}),
        ("jpeg tiff", smooth, "TIFF", {"compression": "jpeg"}),
        ("fax tiff", smooth.convert("1"), "TIFF", {"compression": "group4"}),
        ("float tiff", Image.fromarray(noise[:, :, 0] / np.float32(255)), "TIFF", {}),
    ]
    if features.check("avif"):
        kinds.append(("avif", smooth, "AVIF", {}))
    files = {}
    for name, image, kind, options in kinds:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        files[name] = stream.getvalue()
    return files


INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(content: bytes, seed: int) -> bytes:
    """Change, cut, repeat or drop a few bytes; headers, which come first, more often."""
    rng = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        reach = min(len(data), 64) if rng.random() < 0.5 else len(data)
        place = int(rng.integers(0, max(1, reach)))
        size = int(rng.integers(1, 17))
        action = rng.random()
        if action < 0.45:
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif action < 0.7:
            fill = int(rng.choice(INTERESTING))
            data[place : place + size] = bytes([fill]) * len(data[place : place + size])
        elif action < 0.8:
            data = data[: max(1, place)]
        elif action < 0.9:
            data[place:place] = data[place : place + size]
        else:
            del data[place : place + size]
        if not data:
            data = bytearray(content[:1])
    return with_checksums(bytes(data)) if content[1:4] == b"PNG" else bytes(data)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose checksums fit again, so that what lies behind them is read."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(seeds: range, files: dict[str, bytes], seconds: float, memory: float) -> dict[str, Any]:
    """Decode one mutation for each seed, the files in turn."""
    names = list(files)
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, start_mb = {"seconds": 0.0, "seed": -1}, peak_mb()
    before = start_mb
    for seed in seeds:
        name = names[seed % len(names)]
        content = mutated(files[name], seed)
        start = time.perf_counter()
        try:
            decode_image(content, max_bytes=UPLOAD_BYTES, max_pixels=UPLOAD_PIXELS)
            outcomes[f"{name}: picture"] += 1
        except ImageDecodeError:
            outcomes[f"{name}: refused"] += 1
        # What this script looks for: an error of any other type.
        except Exception as error:
            failures.append({"seed": seed, "file": name, "error": repr(error)[:200]})
        took, now = time.perf_counter() - start, peak_mb()
        if took > slowest["seconds"]:
            slowest = {"seconds": round(took, 3), "seed": seed}
        if took > seconds:
            failures.append({"seed": seed, "file": name, "seconds": round(took, 2)})
        if now > before and now - start_mb > memory:
            failures.append({"seed": seed, "file": name, "memory_mb": round(now - start_mb)})
        before = now
    return {
        "mutations": len(seeds),
        "first_seed": seeds.start,
        "failures": failures,
        "slowest": slowest,
        "memory_mb": round(peak_mb() - start_mb),
        "outcomes": dict(sorted(outcomes.items())),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, metavar="SEED", help="one seed alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="limit for one file")
    parser.add_argument("--memory", type=float, default=300.0, help="limit in MB for all")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    first, count = (args.seed, args.mutations) if args.only is None else (args.only, 1)
    warnings.simplefilter("error")
    result = fuzz(range(first, first + count), originals(), args.seconds, args.memory)
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
