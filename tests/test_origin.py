"""When, where and by which revision results were made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from common import origin


def _git(folder: Path, *arguments: str) -> str:
    ours = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *ours, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    """Also where a tag names it, and with its changes."""
    _git(tmp_path, "init", "--quiet")
    assert origin.commit(tmp_path) is None  # nothing committed yet
    origin.commit.cache_clear()
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", "a")
    _git(tmp_path, "commit", "--quiet", "--message", "a")
    _git(tmp_path, "tag", "--annotate", "--message", "x", "v1")
    known = _git(tmp_path, "rev-parse", "HEAD")
    assert origin.commit(tmp_path) == known and len(known) == 40
    origin.commit.cache_clear()
    (tmp_path / "a").write_text("2")
    assert origin.commit(tmp_path) == f"{known}-dirty"


def test_a_copy_in_the_checkout_of_something_else_has_no_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "a")
    (tmp_path / "site-packages").mkdir()
    assert origin.commit(tmp_path / "site-packages") is None
