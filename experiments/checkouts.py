"""Other revisions of this project: their files, by way of git."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import options


def find_commit(root: Path, revision: str) -> str:
    """The hash of a revision.

    Raises:
        UsageError: `root` is not the top of a git checkout, or has no such revision.
    """
    try:
        top = Path(git(root, "rev-parse", "--show-toplevel"))
    except RuntimeError as error:
        why = f"--against needs a git checkout, and {root} can't be used as one: {error}"
        raise options.UsageError(why) from error
    options.require(
        top.resolve() == root.resolve(),
        f"--against needs a git checkout, and {root} is only a folder in that of {top}",
    )
    try:
        named = f"{revision}^{{commit}}"
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", named)
    except RuntimeError as error:
        raise options.UsageError(
            f"--against {revision}: {root} has no such commit, branch or tag; git log lists them"
        ) from error


@contextlib.contextmanager
def worktree(root: Path, commit: str, tree: Path) -> Iterator[Path]:
    """A commit's files in a folder of their own, which git forgets again at the end.

    Raises:
        UsageError: git can't make it; says why.
    """
    no_hooks = ("-c", f"core.hooksPath={os.devnull}")
    try:
        try:
            git(root, *no_hooks, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        except RuntimeError as error:
            raise options.UsageError(f"git can't check out {commit}: {error}") from error
        yield tree
    finally:
        with contextlib.suppress(RuntimeError):  # twice: also one that git has only begun
            git(root, "worktree", "remove", "--force", "--force", str(tree))


def git(root: Path, *arguments: str) -> str:
    """What a git command says.

    Raises:
        RuntimeError: it failed; has the last line of its errors.
    """
    ours = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # are set where a git hook calls us
    settings = {name: value for name, value in os.environ.items() if name not in ours}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=settings, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise RuntimeError("git is not installed") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout.strip()
