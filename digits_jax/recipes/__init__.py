"""Recipes by name: ``notebook`` and ``strong``."""
