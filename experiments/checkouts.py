"""Other revisions of this project: their files, by way of git."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from common import options
from common.origin import git


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
