"""How fast a device is, for a benchmark to hold times against: its clock, its copies and its arithmetic."""

import time
from functools import cache
from typing import Any

import numpy as np

from .cuda_device import SIMULATED, cuda, multiprocessors
from .cuda_loops import THREADS

CHAINS = 8  # of operations that do not wait for one another, in each thread
STEPS = 4 if SIMULATED else 4096
_BLOCKS_EACH = 1 if SIMULATED else 32  # for each multiprocessor


def timed(call):
    """Seconds between the device's arrival at what `call` launches and the end of it, and its result."""
    if SIMULATED:  # which has no events
        began = time.perf_counter()
        result = call()
        return time.perf_counter() - began, result
    start, end = cuda.event(), cuda.event()
    start.record()
    result = call()
    end.record()
    end.synchronize()
    return 1e-3 * cuda.event_elapsed_time(start, end), result


def copy(size: int):
    """A copy of so many bytes on the device."""
    source = cuda.to_device(np.ones(size // 4, np.float32))
    target = cuda.device_array_like(source)
    return lambda: target.copy_to_device(source)


def fma(dtype: str):
    """Multiplications with additions in registers, and how many flops they are, two each."""
    kernel, blocks = build_fma(dtype), _BLOCKS_EACH * multiprocessors()
    out = cuda.device_array(blocks * THREADS, np.dtype(dtype))
    factor, term = np.dtype(dtype).type(0.999), np.dtype(dtype).type(1e-3)
    return lambda: kernel[blocks, THREADS](factor, term, out), 2.0 * CHAINS * STEPS * blocks * THREADS


@cache
def build_fma(dtype: str) -> Any:
    """out = x, x <- factor x + term many times, in several chains in each thread."""
    real = np.dtype(dtype).type

    @cuda.jit
    def fma(factor, term, out):
        x = cuda.local.array(CHAINS, real)
        i = cuda.grid(1)
        for c in range(CHAINS):
            x[c] = real(i + c)
        for _ in range(STEPS):
            for c in range(CHAINS):
                x[c] = x[c] * factor + term
        total = real(0)
        for c in range(CHAINS):
            total += x[c]
        out[i] = total

    return fma
