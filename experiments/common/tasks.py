"""What a script trains on, and how: --data and --recipe, the digits or one's own."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import sys
import traceback
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import options
from common.options import UsageError, require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from digits_jax import Dataset, Provenance, Recipe, Split

NAMED = ("notebook", "strong")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Rows to learn from, and what is known of them."""

    data: tuple[Any, ...]  # (inputs, targets) or (inputs, targets, weights), arrays [N, ...]
    provenance: Provenance
    class_names: tuple[str, ...] | None  # [K], of integer targets [N]; None: no classification
    groups: npt.NDArray[Any] | None = None  # [N], what stays together in a fold; None: each row
    dataset: Dataset | None = None  # the digits, where they are it

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


class Plan(NamedTuple):
    """How to train: a recipe with its numbers, under the name that the user gave."""

    name: str
    recipe: Recipe
    hyperparameters: Any
    epochs: int
    is_ours: bool = True  # a recipe by name on the digits: what fails is no mistake of the user's

    def mistake(self, error: Exception) -> UsageError | None:
        """What to say of an error in training, where it is the user's to mend.

        An error in the user's own file is named with its line.
        """
        if self.is_ours:
            return None
        file = Path(self.name.rpartition(":")[0]).expanduser().absolute()
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename).absolute() == file]
        if not lines and type(error) not in (TypeError, ValueError):
            return None
        what = " ".join(str(error).split())
        if lines:
            what = f"{file.name}, line {lines[-1]}: {type(error).__name__}: {what}"
        return UsageError(f"--recipe {self.name}: {what}")


def load_task(data: str) -> Task:
    """The rows of --data: an .npz of one's own, or digits.

    Raises:
        UsageError: the file can't be read, or lacks what it must hold.
        DataError: the same of digits.
    """
    if data.endswith(".npz"):
        return _own_task(Path(data).expanduser())
    from digits_jax import load_digits

    dataset = load_digits(data)
    return Task(
        data=dataset.data,
        provenance=dataset.provenance,
        class_names=dataset.class_names,
        dataset=dataset,
    )


def _own_task(path: Path) -> Task:
    import numpy as np

    from digits_jax import Provenance

    require(path.is_file(), f"--data {path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
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
    provenance = Provenance(source=str(path), rows=rows, sha256=digest.hexdigest(), note=note)
    weights = [arrays["weights"]] if "weights" in arrays else []
    return Task(
        data=(inputs, targets, *weights),
        provenance=provenance,
        class_names=names,
        groups=arrays.get("groups"),
    )


def load_plan(
    recipe: str,
    task: Task,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    set_: Sequence[str] = (),
) -> Plan:
    """The plan of --recipe: a name, or FILE.py:FUNCTION.

    Args:
        recipe: as on the command line.
        task: whose ``data`` an own function gets; it gives (Recipe, hyperparameters, epochs).
        epochs: instead of the plan's.
        batch_size: instead of the recipe's.
        set_: NAME=VALUE of hyperparameters and fields of the network, instead of the plan's.

    Raises:
        UsageError: there is no such recipe, the function gives something else, or an option does
            not fit it.
    """
    if recipe in NAMED:
        from digits_jax import recipe_by_name

        named = recipe_by_name(recipe, epochs=epochs, batch_size=batch_size)
        ours = task.dataset is not None
        plan = Plan(recipe, named.recipe, named.hyperparameters, named.epochs, ours)
    else:
        plan = _own_plan(recipe, task)
        if batch_size is not None:
            changed = dataclasses.replace(plan.recipe, batch_size=batch_size)
            plan = plan._replace(recipe=changed)
        plan = plan if epochs is None else plan._replace(epochs=epochs)
    given = {name: parsed(value) for name, value in settings(set_).items()}
    plan = with_settings(plan, given)
    options.countable(plan.epochs, task.rows, plan.recipe.batch_size)
    return plan


def load_variants(recipe: str, task: Task, *, epochs: int | None = None) -> dict[str, Plan]:
    """The plans of FILE.py:FUNCTION, by name: the function gives a dict of them, the base first.

    Args:
        recipe: as on the command line.
        task: whose ``data`` the function gets.
        epochs: instead of the plans'.

    Raises:
        UsageError: the function can't be called, or gives something else.
    """
    made = _made(recipe, task)
    several = isinstance(made, Mapping) and len(made) >= 2
    form = (
        "must give a dict of two or more names with (Recipe, hyperparameters, epochs), base first"
    )
    require(several, f"--recipe {recipe}: the function {form}")
    plans = {str(name): _checked_plan(each, recipe) for name, each in made.items()}
    if epochs is not None:
        plans = {name: plan._replace(epochs=epochs) for name, plan in plans.items()}
    for plan in plans.values():
        options.countable(plan.epochs, task.rows, plan.recipe.batch_size)
    return plans


def _own_plan(recipe: str, task: Task) -> Plan:
    return _checked_plan(_made(recipe, task), recipe)


def _checked_plan(made: Any, recipe: str) -> Plan:
    """A plan of what the user's function made."""
    from digits_jax import Recipe

    fits = isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], Recipe)
    require(
        fits and isinstance(made[2], int) and made[2] >= 1,
        f"--recipe {recipe}: the function must give (Recipe, hyperparameters, epochs)",
    )
    trained, numbers, epochs = made
    return Plan(recipe, trained, numbers, epochs, is_ours=False)


def _made(recipe: str, task: Task) -> Any:
    """What the user's function gives."""
    file, _, function = recipe.rpartition(":")
    known = f"--recipe {recipe}: give {', '.join(NAMED)}, or FILE.py:FUNCTION"
    require(file.endswith(".py") and function.isidentifier(), known)
    path = Path(file).expanduser()
    require(path.is_file(), f"--recipe {recipe}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.absolute()))  # as of a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"--recipe {recipe}: {path} can't be run: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop(0)
    make = getattr(module, function, None)
    require(callable(make), f"--recipe {recipe}: {path} has no function {function}")
    assert make is not None
    try:
        inspect.signature(make).bind(task.data)
    except TypeError:
        raise UsageError(
            f"--recipe {recipe}: {function} must take one argument, the data (inputs, targets)"
        ) from None
    try:
        return make(task.data)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--recipe {recipe}: {function} failed: {error}") from error


def with_numbers(h: Any, values: Mapping[str, Any], flag: str = "--set") -> Any:
    """The hyperparameters with other values, each by its leaf's name.

    Raises:
        UsageError: there is none of that name.
    """
    from digits_jax.runs.axis import with_leaves

    try:
        return with_leaves(h, values)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def with_settings(plan: Plan, settings: Mapping[str, Any], flag: str = "--set") -> Plan:
    """The plan with other values: of hyperparameters, batch_size, or network.FIELD.

    Raises:
        UsageError: there is nothing of that name, or the value doesn't fit.
    """
    recipe, numbers = plan.recipe, dict(settings)
    try:
        if "batch_size" in numbers:
            recipe = dataclasses.replace(recipe, batch_size=numbers.pop("batch_size"))
        fields = {
            name.removeprefix("network."): numbers.pop(name)
            for name in list(numbers)
            if name.startswith("network.")
        }
        if fields:
            recipe = dataclasses.replace(recipe, network=_with_fields(recipe.network, fields, flag))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{flag}: {error}") from error
    h = with_numbers(plan.hyperparameters, numbers, flag) if numbers else plan.hyperparameters
    return plan._replace(recipe=recipe, hyperparameters=h)


def _with_fields(network: Any, fields: Mapping[str, Any], flag: str) -> Any:
    """The network, a linen module or one with hyperparameters, with other values of its fields."""
    import flax.linen as nn

    from digits_jax import NetworkWithHyperparameters

    if isinstance(network, NetworkWithHyperparameters):
        inner = _with_fields(network.network, fields, flag)
        return dataclasses.replace(network, network=inner)
    given = isinstance(network, nn.Module)
    require(given, f"{flag} network.{next(iter(fields))}: the network is no linen module")
    known = [f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name")]
    values = {}
    for name, value in fields.items():
        require(name in known, f"{flag} network.{name}: the network's fields are {known}")
        if isinstance(value, str):  # an activation, by its name in flax.linen
            function = getattr(nn, value, None)
            require(callable(function), f"{flag} network.{name}: flax.linen has no {value}")
            value = function
        values[name] = value
    return network.clone(**values)


def parsed(text: str) -> Any:
    """A value of --set: an integer, a number, or a word."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def settings(texts: Sequence[str], flag: str = "--set") -> dict[str, str]:
    """NAME=VALUE, by name.

    Raises:
        UsageError: a text is not of that form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        require(bool(name and equals and value), f"{flag} {text}: write it as NAME=VALUE")
        require(name not in found, f"{flag} names {name} twice")
        found[name] = value
    return found


def learning_rate_of(h: Any) -> Any:
    """The hyperparameter of that name, or None."""
    return h.get("learning_rate") if isinstance(h, Mapping) else getattr(h, "learning_rate", None)


def numbers_of(plan: Plan) -> dict[str, Any]:
    """The options of ``Training`` that the plan has decided: epochs, batch size, learning rate."""
    rate = learning_rate_of(plan.hyperparameters)
    return {
        "epochs": plan.epochs,
        "batch_size": plan.recipe.batch_size,
        "learning_rate": rate if isinstance(rate, int | float) else None,
    }


def fold_splits(
    task: Task, folds: int, *, repeats: int, seed: int, stratified: bool = True
) -> Split:
    """The folds of a task: stratified where it has classes, and groups stay whole.

    Raises:
        UsageError: the rows can't be split so.
    """
    import numpy as np

    import digits_jax as dj

    stratified = stratified and task.labels is not None
    try:
        if task.groups is None:
            return dj.kfold_splits(
                task.targets, folds, seed=seed, stratified=stratified, repeats=repeats
            )
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        kind: Any = StratifiedGroupKFold if stratified else GroupKFold
        pairs = []
        for repeat in range(repeats):
            splitter = kind(folds, shuffle=True, random_state=seed + repeat)
            pairs += splitter.split(np.zeros(task.rows), task.targets, task.groups)
        return dj.index_splits(pairs)
    except ValueError as error:
        raise UsageError(str(error)) from error


def one_split(task: Task, test_size: float, *, seed: int) -> Split:
    """One random split of a task; groups stay whole.

    Raises:
        UsageError: the rows can't be split so.
    """
    import numpy as np

    import digits_jax as dj

    try:
        if task.groups is None:
            return dj.holdout_split(task.targets, test_size=test_size, seed=seed)
        from sklearn.model_selection import GroupShuffleSplit

        splitter = GroupShuffleSplit(1, test_size=test_size, random_state=seed)
        return dj.index_splits(splitter.split(np.zeros(task.rows), task.targets, task.groups))
    except ValueError as error:
        raise UsageError(str(error)) from error


def with_validation(task: Task, splits: Split, fraction: float, *, seed: int) -> Split:
    """Splits with so many of their training rows as validation rows; 0: none.

    Raises:
        UsageError: the rows can't be split so.
    """
    if not fraction:
        return splits
    import digits_jax as dj

    try:
        classes = task.labels if task.groups is None else None
        return dj.with_validation(splits, fraction, seed=seed, stratify=classes, groups=task.groups)
    except ValueError as error:
        raise UsageError(str(error)) from error
