"""The machine's rate of float32 matrix products, in FLOP/s: what the floor is measured by.

NumPy's and JAX's product of two 2048 x 2048 matrices, on all cores (or on JAX's first
accelerator); the better one counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import protocol

SIZE = 2048  # rows and columns
SECONDS = 1.0  # for each library


def measure() -> dict[str, Any]:
    """The median rate of each library, and the better of the two."""
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE), dtype=np.float32)
    on_device = jax.device_put(matrix)
    with jax.default_matmul_precision("highest"):  # an accelerator's default may be less
        product = jax.jit(lambda x: x @ x).lower(on_device).compile()
    rates = {
        "numpy": _rate(lambda: matrix @ matrix),
        "jax": _rate(lambda: product(on_device).block_until_ready()),
    }
    device = jax.devices()[0].device_kind
    return {"flop_per_second": max(rates.values()), "by_library": rates, "device": device}


def _rate(product: Callable[[], Any]) -> float:
    product()
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / float(np.median(seconds))


if __name__ == "__main__":
    protocol.run_measurement(measure, packages=("jax", "jaxlib", "numpy"))
