"""What a script learns: the rows of --data, and their splits."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import console, progress
from common.options import UsageError, require, usage_errors
from digits_jax.storage.files import open_arrays


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Rows to learn from, and what is known of them."""

    data: tuple[Any, ...]  # (inputs, targets) or (inputs, targets, weights), arrays [N, ...]
    provenance: dj.Provenance
    class_names: tuple[str, ...] | None  # [K], of integer targets [N]; None: no classification
    groups: npt.NDArray[Any] | None = None  # [N], what stays together in a fold; None: each row
    dataset: dj.Dataset | None = None  # the digits, where they are it

    @property
    def targets(self) -> npt.NDArray[Any]:
        """[N, ...]."""
        targets: npt.NDArray[Any] = self.data[1]
        return targets

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """The classes [N], where the targets are classes."""
        return None if self.class_names is None else self.targets

    @property
    def images(self) -> npt.NDArray[Any] | None:
        """[N, H, W] or [N, H, W, 3], where the inputs look like images."""
        inputs: npt.NDArray[np.generic] = self.data[0]
        if inputs.ndim == 4 and inputs.shape[-1] == 1:
            inputs = inputs[..., 0]
        small = inputs.ndim in (3, 4) and max(inputs.shape[1:3]) <= 256
        return inputs if small and (inputs.ndim == 3 or inputs.shape[-1] == 3) else None

    @property
    def rows(self) -> int:
        """N."""
        return len(self.targets)

    def has_logits(self, outputs: Any) -> bool:
        """Whether outputs [R, S, ...] are logits [R, S, K] of the task's classes."""
        if self.class_names is None or getattr(outputs, "ndim", 0) != 3:
            return False
        return bool(outputs.shape[2] == len(self.class_names))


def load_digits(data: str) -> dj.Dataset:
    """The digits of --data; a line says which rows these are.

    Raises:
        DataError: they can't be read.
    """
    with progress.waiting(f"reading the rows of --data {data}", at_once=False):
        dataset = dj.load_digits(data)
    console.show_data(dataset.provenance)
    return dataset


def load_task(data: str) -> Task:
    """The rows of --data, an .npz of one's own or digits; a line says which rows these are.

    Raises:
        UsageError: the file can't be read, or lacks what it must hold.
        DataError: the digits can't be read.
    """
    if data.endswith(".npz"):
        task = _own_task(Path(data).expanduser())
        console.show_data(task.provenance)
        return task
    dataset = load_digits(data)
    return Task(
        data=dataset.data,
        provenance=dataset.provenance,
        class_names=dataset.class_names,
        dataset=dataset,
    )


def _own_task(path: Path) -> Task:
    require(path.is_file(), f"--data {path}: there is no such file")
    try:
        with open_arrays(path) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"--data {path} can't be read ({error}); make it with numpy.savez(path, "
            "inputs=..., targets=...), of arrays of numbers"
        ) from error
    known = {"inputs", "targets", "weights", "groups", "class_names"}
    require(
        {"inputs", "targets"} <= set(arrays) <= known,
        f"--data {path} holds {', '.join(arrays) or 'nothing'}; it must hold inputs and targets, "
        "and may hold weights, groups and class_names",
    )
    inputs, targets = arrays["inputs"], arrays["targets"]
    rows = inputs.shape[0] if inputs.ndim else 0
    for name in set(arrays) - {"class_names"}:
        count = arrays[name].shape[0] if arrays[name].ndim else 0
        require(
            count == rows > 0, f"--data {path}: {name} has {count} rows, and inputs have {rows}"
        )
    for name in ("inputs", "targets", "weights"):
        kind = arrays[name].dtype if name in arrays else inputs.dtype
        require(
            kind.kind in "biuf",
            f"--data {path}: {name} must be numbers, not {kind}; np.unique(names, "
            "return_inverse=True) gives integers and what they stand for",
        )
    names: tuple[str, ...] | None = None
    if targets.dtype.kind in "iu" and targets.ndim == 1:
        require(targets.min() >= 0, f"--data {path}: classes must be at least 0")
        names = tuple(str(k) for k in range(int(targets.max()) + 1))
        if "class_names" in arrays:
            given = tuple(map(str, arrays["class_names"].tolist()))
            require(
                len(given) >= len(names),
                f"--data {path}: class_names has {len(given)} names, and there are {len(names)} "
                "classes",
            )
            names = given
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    shape = " x ".join(map(str, inputs.shape[1:])) or "1"
    note = f"{path.name}: inputs of {shape}, {'classes' if names else 'targets'}"
    provenance = dj.Provenance(source=str(path), rows=rows, sha256=digest.hexdigest(), note=note)
    weights = [arrays["weights"]] if "weights" in arrays else []
    return Task(
        data=(inputs, targets, *weights),
        provenance=provenance,
        class_names=names,
        groups=arrays.get("groups"),
    )


def fold_splits(
    task: Task, folds: int, *, repeats: int, seed: int, stratified: bool | None = None
) -> dj.Split:
    """The folds of a task: stratified where it has classes, and groups stay whole.

    ``stratified`` is None where a script has no option for it: then folds are, too.

    Raises:
        UsageError: the rows can't be split so.
    """
    remedy = "use fewer --folds" if stratified is None else "use --no-stratified or fewer --folds"
    stratified = stratified is not False and task.labels is not None
    with usage_errors():
        if task.groups is None:
            try:
                return dj.kfold_splits(
                    task.targets, folds, seed=seed, stratified=stratified, repeats=repeats
                )
            except ValueError as error:  # in the words of the command line
                text = str(error).replace("use stratified=False or fewer folds", remedy)
                raise UsageError(text) from error
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        kind: Any = StratifiedGroupKFold if stratified else GroupKFold
        pairs = []
        for repeat in range(repeats):
            splitter = kind(folds, shuffle=True, random_state=seed + repeat)
            pairs += splitter.split(np.zeros(task.rows), task.targets, task.groups)
        return dj.index_splits(pairs)


def one_split(task: Task, test_size: float, *, seed: int) -> dj.Split:
    """One random split of a task; groups stay whole.

    Raises:
        UsageError: the rows can't be split so.
    """
    with usage_errors():
        if task.groups is None:
            return dj.holdout_split(task.targets, test_size=test_size, seed=seed)
        from sklearn.model_selection import GroupShuffleSplit

        splitter = GroupShuffleSplit(1, test_size=test_size, random_state=seed)
        return dj.index_splits(splitter.split(np.zeros(task.rows), task.targets, task.groups))


def with_validation(task: Task, splits: dj.Split, fraction: float, *, seed: int) -> dj.Split:
    """Splits with so many of their training rows as validation rows; 0: none.

    Raises:
        UsageError: the rows can't be split so.
    """
    if not fraction:
        return splits
    classes = task.labels if task.groups is None else None
    with usage_errors():
        return dj.with_validation(splits, fraction, seed=seed, stratify=classes, groups=task.groups)


def mean_sizes(splits: dj.Split) -> dict[str, float]:
    """Training and test rows of a split, as the corrected intervals and tests take them."""
    return {
        "train_rows": float(dj.train_sizes(splits).mean()),
        "test_rows": float(dj.test_sizes(splits).mean()),
    }
