"""Figures of arrays: each function takes arrays and returns a matplotlib ``Figure``.

``save`` writes a figure. No function touches pyplot or global settings. Figures are as wide as one
or two columns of a paper; their colours stay apart for colour-blind readers. Shapes: N rows, R
runs, E epochs, K classes, M methods, C configurations. Pixels are ink counts, 0 to 16, drawn dark
on light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
