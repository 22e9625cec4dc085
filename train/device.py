"""Where and how the arithmetic runs."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from typing import Literal

import torch


def choose_device(name: str | None = None) -> torch.device:
    """The named device, or a CUDA device where there is one, or the CPU.

    Raises:
        ValueError: when CUDA is asked for and absent.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but PyTorch sees no CUDA device; use 'cpu'")
    return device


Precision = Literal["float32", "bfloat16"]


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it natively: CUDA, and CPUs with AMX tiles.

    Without such units it is far slower than float32. On CPUs with bfloat16 dot products only
    (avx512_bf16) `--precision bfloat16` gains something.
    """
    if device.type == "cuda":
        return "bfloat16"
    # Older releases of PyTorch cannot say; they train in float32.
    ask: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()
    return "bfloat16" if capabilities.get("amx_bf16") else "float32"


def keep_freed_memory() -> None:
    """Tell glibc not to hand large freed blocks back to the system after each batch.

    Otherwise every batch faults its large temporaries in anew. Has no effect elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, mmap_max, unlimited = -1, -4, 2**31 - 1
    libc.mallopt(trim_threshold, unlimited)
    libc.mallopt(mmap_max, 0)


def hardware(device: torch.device, processes: int = 1) -> str:
    """A short description for the card; every process has a device of the same kind."""
    if device.type == "cuda":
        return f"{processes} × {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    words = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    return words if processes == 1 else f"{processes} processes, each {words}"
