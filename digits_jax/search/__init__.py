"""Searches over hyperparameters: grids, random search, successive halving."""
