"""How a recipe's scores are worded: their titles, units and digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from digits_jax import Recipe


class Score(NamedTuple):
    """How a score is worded."""

    name: str  # of the recipe's
    title: str  # "Accuracy (%)"
    scale: float
    unit: str
    digits: int | None  # after the point; None: four significant ones

    def text(self, value: float) -> str:
        """The value, without its unit."""
        scaled = self.scale * value
        return f"{scaled:.4g}" if self.digits is None else f"{scaled:.{self.digits}f}"

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign, without its unit."""
        scaled = self.scale * value
        return f"{scaled:+.4g}" if self.digits is None else f"{scaled:+.{self.digits}f}"

    def spread(self, mean: float, sd: float) -> str:
        """Mean ± sd."""
        spread = f"{self.scale * sd:.2g}" if self.digits is None else self.text(sd)
        return f"{self.text(mean)} ± {spread}"


ACCURACY = Score("accuracy", "Accuracy (%)", 100, "%", 2)
CROSS_ENTROPY = Score("loss", "Loss (nats)", 1, "nats", 4)


def scores_of(recipe: Recipe) -> list[Score]:
    """The wording of a recipe's scores: its metrics, and last the loss."""
    from digits_jax import accuracy, cross_entropy

    found = []
    for name, metric in (recipe.metrics or {}).items():
        percent = metric is accuracy or name == "accuracy"
        title = name.replace("_", " ").capitalize() + " (%)" * percent
        found.append(
            Score(name, title, 100, "%", 2) if percent else Score(name, title, 1, "", None)
        )
    nats = recipe.loss is cross_entropy
    loss = (
        Score("loss", "Loss (nats)", 1, "nats", 4) if nats else Score("loss", "Loss", 1, "", None)
    )
    return [*found, loss]
