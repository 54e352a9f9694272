"""Pytrees and mappings on disk: checkpoints, files that are whole or absent, a folder's lock."""
