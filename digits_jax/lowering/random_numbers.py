"""Random numbers in one pass, where a CPU would loop over Threefry's rounds.

``random_bits`` and ``fold_in`` give JAX's own. ``bits_of_rows`` and ``bernoulli`` give other draws
of the same law, for arrays that are held with the batch last.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def random_bits(key: jax.Array, *, bit_width: int, shape: tuple[int, ...]) -> jax.Array | None:
    """The bits that JAX draws, in one pass: on a CPU it makes a loop of Threefry's rounds."""
    size = math.prod(shape)
    plain = key.ndim == 0 and 0 < size < 2**32 and bit_width <= 32
    if not plain or not _is_threefry(key) or not jax.threefry_partitionable.value:
        return None
    half = -(-size // 2)

    def words(start: jax.Array) -> jax.Array:
        counter = start + lax.iota(jnp.uint32, half)
        a, b = _threefry(key, jnp.zeros_like(counter), counter)
        return (a ^ b).astype(f"uint{bit_width}")

    # In a loop of two steps: else XLA draws again wherever the numbers are used.
    drawn: jax.Array = lax.map(words, half * jnp.arange(2, dtype=jnp.uint32))
    return drawn.reshape(-1)[:size].reshape(shape)


def bits_of_rows(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array | None:
    """Random bits, uint [*rest, B]: other draws than JAX's, of the same law; None: no rule.

    A word of Threefry's serves four bytes. JAX draws a word for each.
    """
    if not _is_threefry(key) or key.ndim or bit_width not in (8, 16, 32):
        return None
    *rest, batch = shape
    each, size = 32 // bit_width, math.prod(rest)
    rows = -(-size // each)
    words = _words(key, rows * batch).reshape(rows, batch)
    parts = [(words >> shift).astype(f"uint{bit_width}") for shift in range(0, 32, bit_width)]
    return jnp.concatenate(parts)[:size].reshape(shape)


def bernoulli(key: jax.Array, keep: float, shape: tuple[int, ...]) -> jax.Array | None:
    """True with probability ``keep``, bool [*rest, B], of as few bits as give just that law.

    A byte decides where ``keep`` is a multiple of 1/256. None: no rule.
    """
    if keep * 256 != int(keep * 256) or not 0 < keep < 1:
        return None
    drawn = bits_of_rows(key, 8, shape)
    return None if drawn is None else drawn >= jnp.uint8(256 - int(keep * 256))


def _words(key: jax.Array, count: int) -> jax.Array:
    """Random uint32 [count]; both words of each of Threefry's blocks are used."""
    half = -(-count // 2)
    counter = lax.iota(jnp.uint32, half)
    return jnp.concatenate(_threefry(key, counter, counter + jnp.uint32(half)))[:count]


def fold_in(key: jax.Array, number: jax.Array) -> jax.Array | None:
    """The rule for ``random_fold_in``; None where it has none."""
    if key.ndim or jnp.ndim(number) or not _is_threefry(key):
        return None
    number = jnp.asarray(number).astype(jnp.uint32)
    words = jnp.stack(_threefry(key, jnp.zeros_like(number), number))
    folded: jax.Array = jax.random.wrap_key_data(words, impl="threefry2x32")
    return folded


def _is_threefry(key: jax.Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


@jax.jit  # traced and lowered once for each shape: 115 operations, which a step has ten times
def _rounds(first: jax.Array, second: jax.Array, a: jax.Array, b: jax.Array) -> Any:
    keys = first, second, first ^ second ^ jnp.uint32(0x1BD11BDA)
    a, b = a + keys[0], b + keys[1]
    for i in range(5):
        for left in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            a = a + b
            b = a ^ ((b << left) | (b >> (32 - left)))
        a, b = a + keys[(i + 1) % 3], b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return a, b


def _threefry(key: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of two words, its 20 rounds written out.

    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    first, second = jax.random.key_data(key)
    words: tuple[jax.Array, jax.Array] = _rounds(first, second, a, b)
    return words
