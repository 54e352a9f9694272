"""How scores and counts are worded: titles, units, digits, plurals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import digits_jax as dj


class Score(NamedTuple):
    """How a score is worded."""

    name: str  # of the recipe's
    title: str  # "Accuracy (%)"
    scale: float
    unit: str
    digits: int | None  # after the point; None: four significant ones

    @property
    def label(self) -> str:
        """The title, within a sentence or a table."""
        return self.title[0].lower() + self.title[1:]

    def text(self, value: float) -> str:
        """The value, without its unit."""
        scaled = self.scale * value
        return f"{scaled:.4g}" if self.digits is None else f"{scaled:.{self.digits}f}"

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign, without its unit."""
        scaled = self.scale * value
        return f"{scaled:+.4g}" if self.digits is None else f"{scaled:+.{self.digits}f}"

    def with_unit(self, text: str) -> str:
        """What was worded, and the unit, if there is one."""
        return f"{text} {self.unit}".strip()

    def spread(self, mean: float, sd: float) -> str:
        """Mean ± sd."""
        spread = f"{self.scale * sd:.2g}" if self.digits is None else self.text(sd)
        return f"{self.text(mean)} ± {spread}"

    def mean(self, summary: Mapping[str, Any]) -> str:
        """Mean ± sd of a summary of ``results.json``."""
        return self.spread(summary["mean"], summary["std"])

    def interval(self, summary: Mapping[str, Any], dash: str = "–") -> str:
        """The 95 % interval of such a summary; a dash where a single score has none."""
        return self.ends(summary["ci95"], dash)

    def ends(self, ends: Sequence[float | None], dash: str = "–") -> str:
        """An interval; a dash where there is none."""
        known = [end for end in ends if end is not None and not math.isnan(end)]
        return " to ".join(map(self.text, known)) if len(known) == 2 else dash


def counted(count: int, noun: str) -> str:
    """A number of things: "1 run", "2 runs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


ACCURACY = Score("accuracy", "Accuracy (%)", 100, "%", 2)
MACRO = [Score(name, f"Macro {name} (%)", 100, "%", 2) for name in ("precision", "recall", "f1")]
CROSS_ENTROPY = Score("loss", "Loss (nats)", 1, "nats", 4)


def scores_of(recipe: dj.Recipe) -> list[Score]:
    """The wording of a recipe's scores: its metrics, and last the loss."""
    found = []
    for name, metric in (recipe.metrics or {}).items():
        percent = metric is dj.accuracy or name == "accuracy"
        title = name.replace("_", " ").capitalize() + " (%)" * percent
        found.append(Score(name, title, *((100, "%", 2) if percent else (1, "", None))))
    nats = recipe.loss is dj.cross_entropy
    return [*found, CROSS_ENTROPY if nats else Score("loss", "Loss", 1, "", None)]
