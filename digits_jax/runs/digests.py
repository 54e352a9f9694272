"""Digests of programs that are the same in every process: of a jaxpr, and of StableHLO text.

Neither holds a name of a function, a place in a source file or an address in memory. Constants,
also those of inner jaxprs, count by their values.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# What an equation says of names, places and gradient rules. The latter are functions, which are not
# traced yet: a rule shows in the StableHLO of what is differentiated.
_UNSEEN = frozenset(
    "name name_and_src_info debug debug_info jvp_jaxpr_fun fwd_jaxpr_thunk bwd out_trees policy "
    "callback jvp in_shardings out_shardings in_layouts out_layouts sharding out_sharding ctx_mesh "
    "compiler_options_kvs backend device keep_unused donated_invars logging_record".split()
)


def digest_of_jaxpr(closed: core.ClosedJaxpr) -> str:
    """The SHA-256 of what a jaxpr computes, with the values of all its constants."""
    return _of_jaxpr(closed.jaxpr, closed.consts, {})


def digest_of_stablehlo(text: str) -> str:
    """The SHA-256 of a module's text, as of ``lowered.as_text()``, whatever its functions' names.

    Names of functions are numbered in the order of their definitions: a jitted helper has its
    Python name there. Targets of custom calls keep theirs.
    """
    names = dict.fromkeys(_DEFINED.findall(text))
    numbered = {name: f"@{i}" for i, name in enumerate(names)}
    text = _SYMBOL.sub(lambda found: numbered.get(found[1], found[0]), text)
    return hashlib.sha256(text.encode()).hexdigest()


_NAME = r'"[^"]*"|[\w.$-]+'
_DEFINED = re.compile(rf"^ *(?:module|func\.func)(?: public| private)? @({_NAME})", re.MULTILINE)
_SYMBOL = re.compile(rf"@({_NAME})")


def callbacks_in(jaxpr: core.Jaxpr) -> set[str]:
    """The names of those operations, also of inner jaxprs, that call Python while they run."""
    return {
        equation.primitive.name for equation in _equations(jaxpr) if _calls_back(equation.primitive)
    }


def _calls_back(primitive: Any) -> bool:
    return "callback" in primitive.name or primitive.name == "debug_print"


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _of_jaxpr(jaxpr: core.Jaxpr, consts: Sequence[Any], known: dict[int, str]) -> str:
    """The digest of a jaxpr; ``known`` has those of closed jaxprs, by their ``id``."""
    names: dict[Any, str] = {}
    # By value: whether two uses of equal values share an array is chance.
    for variable, const in zip(jaxpr.constvars, consts, strict=False):
        names[variable] = _of_array(const, variable.aval)
    count = 0

    def define(variable: Any) -> str:
        nonlocal count
        names[variable] = f"%{count}"
        count += 1
        return f"{names[variable]}:{_of_aval(variable.aval)}"

    def use(atom: Any) -> str:
        return _of_array(atom.val, atom.aval) if isinstance(atom, core.Literal) else names[atom]

    free = [variable for variable in jaxpr.constvars if variable not in names]
    lines = [" ".join(map(define, [*free, *jaxpr.invars]))]
    for equation in jaxpr.eqns:
        inputs = " ".join(map(use, equation.invars))
        params = {
            name: value
            for name, value in equation.params.items()
            if name not in _UNSEEN or equation.primitive.name == "name"  # checkpoint_name's is read
        }
        outputs = " ".join(map(define, equation.outvars))
        lines.append(f"{outputs} = {equation.primitive.name}{_text(params, known)} {inputs}")
    lines.append(" ".join(map(use, jaxpr.outvars)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _of_aval(aval: Any) -> str:
    weak = "*" if getattr(aval, "weak_type", False) else ""
    if not hasattr(aval, "dtype"):
        return _without_addresses(str(aval))
    kind = "" if type(aval).__name__ == "ShapedArray" else type(aval).__name__
    return f"{kind}{aval.dtype}{list(getattr(aval, 'shape', ()))}{weak}"


def _of_array(value: Any, aval: Any = None) -> str:
    """A constant by its dtype, shape and bytes."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        words = np.asarray(jax.random.key_data(value))
        kind = str(dtype)
    else:
        words = np.asarray(value, None if aval is None else aval.dtype)
        kind = str(words.dtype)
    weak = "*" if getattr(aval, "weak_type", False) else ""
    digest = hashlib.sha256(np.ascontiguousarray(words).tobytes()).hexdigest()
    return f"{kind}{list(words.shape)}{weak}={digest}"


def _text(value: Any, known: dict[int, str]) -> str:
    """An equation's parameter in words that are the same in every process."""
    if isinstance(value, core.ClosedJaxpr):
        if id(value) not in known:
            known[id(value)] = _of_jaxpr(value.jaxpr, value.consts, known)
        return known[id(value)]
    if isinstance(value, core.Jaxpr):
        return _of_jaxpr(value, (), known)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, np.dtype | enum.Enum):
        return str(value)
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _of_array(value)
    if isinstance(value, Mapping):
        return f"[{', '.join(f'{k}={_text(each, known)}' for k, each in sorted(value.items()))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_text(each, known) for each in value))}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(_text(each, known) for each in value)})"
    if dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return f"{type(value).__qualname__}{_text(fields, known)}"
    if callable(value) or hasattr(value, "call_wrapped"):
        return type(value).__qualname__
    return _without_addresses(str(value))


def _without_addresses(text: str) -> str:
    return re.sub(r"\b0x[0-9a-fA-F]+", "", text)
