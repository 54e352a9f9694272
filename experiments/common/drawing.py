"""Figures that are drawn once the results are written, and whose failure ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import digits_jax as dj

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing:
    """A figure to come.

    Args:
        draw: gives it; called once, when the figure is first asked for.
    """

    def __init__(self, draw: Callable[[], Figure]) -> None:
        self._draw = draw
        self._figure: Figure | None = None
        self.error: Exception | None = None

    @property
    def figure(self) -> Figure | None:
        """The figure; None where drawing failed, for which there is an ``error``."""
        if self._figure is None and self.error is None:
            try:
                self._figure = self._draw()
            except Exception as error:  # of whatever kind: the numbers are there
                self.error = error
        return self._figure


class _Plots:
    """``dj.plots``, whose functions give a ``Drawing``."""

    def __getattr__(self, name: str) -> Callable[..., Drawing]:
        def later(*arguments: Any, **options: Any) -> Drawing:
            return Drawing(lambda: getattr(dj.plots, name)(*arguments, **options))

        return later


plots = _Plots()


def styled(function: Callable[..., Figure], *arguments: Any) -> Drawing:
    """A figure of a script's own, in the style of ``dj.plots``."""
    return Drawing(lambda: dj.plots.styled(function)(*arguments))
