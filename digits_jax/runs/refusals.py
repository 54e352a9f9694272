"""Compares the identity of what is saved with what is asked for, and says what differs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from digits_jax.runs.identity import ABOUT, PROGRAM, RUNS
from digits_jax.runs.parts import EPOCH
from digits_jax.storage.errors import CheckpointError, shortened, shortened_path

logger: logging.Logger = logging.getLogger("digits_jax")

REMEDY = "give the same again, or choose another folder"


def refuse_other_training(
    where: str | os.PathLike[str],
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    remedy: str = REMEDY,
) -> None:
    """Raises CheckpointError unless what is saved is of the training that is asked for.

    Args:
        where: of what is saved.
        saved: its identity, as of ``describe`` and ``describe_program``.
        wanted: the identity of what is asked for.
        remedy: what to do, for the message.

    Raises:
        CheckpointError: they differ. At most 300 characters say in what: an option or a name before
            a digest.
    """
    if PROGRAM in wanted:
        refuse_old(where, saved)
        refuse_callbacks(wanted[PROGRAM])
    for why in _differences(saved, wanted):
        raise CheckpointError(
            f"{shortened_path(where)} is of another training: {shortened(why, 130)}; {remedy}"
        )


def refuse_old(where: str | os.PathLike[str], saved: Mapping[str, Any]) -> None:
    """Raises CheckpointError where an identity says nothing of the program."""
    if PROGRAM not in saved:
        raise CheckpointError(
            f"{shortened_path(where)} was written by an earlier digits_jax, which kept no digest "
            "of the program; train again, in another folder"
        )


def refuse_callbacks(program: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a part calls Python while it runs: no digest sees into that."""
    for part, names in program["callbacks"].items():
        raise CheckpointError(
            f"the {part} calls Python while it runs ({', '.join(names)}): nothing tells whether "
            "that is the same as before, so it can't be resumed; start again, in another folder"
        )


def warn_of_callbacks(described: Mapping[str, Any]) -> None:
    """Says at the start of a training that it can't be resumed, and why."""
    for part, names in described[PROGRAM]["callbacks"].items():
        logger.warning(
            "the %s calls Python while it runs (%s): this training can't be resumed",
            part,
            ", ".join(names),
        )
        return


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Each difference in words, those first that say most to people."""
    about, now = saved.get(ABOUT, {}), wanted.get(ABOUT, {})
    special = (PROGRAM, ABOUT, RUNS)  # what differs in a run, splits, keys and h say in words
    names = [name for name in (*wanted, *(n for n in saved if n not in wanted))]
    values = [
        _difference(name, saved.get(name), wanted.get(name))
        for name in names
        if name not in special and not _same(saved.get(name), wanted.get(name))
    ]
    parts = list(_other_parts(saved.get(PROGRAM, {}), wanted.get(PROGRAM, {})))
    if not values and not parts:
        return
    options = list(_hints(about.get("options", {}), now.get("options", {})))
    if options:
        yield f"started with {', '.join(options)}"
    yield from values
    settings = list(_hints(about.get("settings", {}), now.get("settings", {})))
    configured = list(_hints(about.get("recipe", {}), now.get("recipe", {})))
    for part in parts:
        field = {"metric": "metrics", "combine": "combine"}.get(part.split()[0], part.split()[0])
        prefixes = (f"recipe.{field}", "recipe.precision", "recipe.lowering")
        hints = settings + [hint for hint in configured if hint.startswith(prefixes)]
        if part == EPOCH and not hints:
            hints = configured or ["the gradient rule of a part, or how the library combines them"]
        what = "training step" if part == EPOCH else part
        yield f"started with another {what}" + (
            f" ({hints[0]})" if hints else ", whose program differs"
        )


def _other_parts(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """The names of the parts whose digests differ; the whole last."""
    for kind in ("jaxpr", "stablehlo"):
        old, new = saved.get(kind, {}), wanted.get(kind, {})
        for part in (*new, *(name for name in old if name not in new)):
            if old.get(part) != new.get(part):
                yield part


def _hints(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        if name in saved and not _same(saved[name], value):
            yield f"{name} {_value(saved[name])}, now {_value(value)}"


_DIGESTS = {
    "data.sha256": "other data",
    "splits.sha256": "other splits",
    "keys.sha256": "other random keys (another seed)",
    "params.sha256": "other initial params",
}


def _difference(name: str, saved: Any, wanted: Any) -> str:
    """One difference in words."""
    if name in _DIGESTS:
        return f"started with {_DIGESTS[name]}"
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        for inner in (*wanted, *(each for each in saved if each not in wanted)):
            if not _same(saved.get(inner), wanted.get(inner)):
                prefix = "" if name == "versions" else f"{name} "
                return _difference(f"{prefix}{inner}", saved.get(inner), wanted.get(inner))
    if name == "steps" and saved is not None and wanted is not None:
        old, new = (max(each, default=0) for each in (saved, wanted))
        return (
            f"started for {old} steps, now {new}: the optimizer's schedule depends on the number "
            "of epochs"
        )
    if isinstance(saved, list) and isinstance(wanted, list):
        if len(saved) != len(wanted):
            return f"started with {len(saved)} {name}, now {len(wanted)}"
        for i, (old, new) in enumerate(zip(saved, wanted, strict=True)):
            if not _same(old, new):
                where = f" of run {i + 1}" if name.startswith("hyperparameters.") else ""
                return f"started with {name} {_value(old)}{where}, now {_value(new)}"
    return f"started with {name} {_value(saved)}, now {_value(wanted)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return shortened({"null": "none"}.get(text, text), 40)


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal; NaN is."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
