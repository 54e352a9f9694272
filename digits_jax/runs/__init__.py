"""The runs axis: many runs of ``train.py`` at once, under ``vmap``."""
