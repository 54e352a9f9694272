"""How a script trains: the recipe of --recipe, with the values of --set."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import digits_jax as dj
from common import options
from common.options import UsageError, require, usage_errors
from common.tasks import Task


class Plan(NamedTuple):
    """How to train: a recipe with its numbers, under the name that the user gave."""

    name: str
    recipe: dj.Recipe
    hyperparameters: Any
    epochs: int
    is_ours: bool = True  # a recipe by name on the digits: what fails is no mistake of the user's

    @contextlib.contextmanager
    def naming_mistakes(self) -> Iterator[None]:
        """An error within that is the user's to mend becomes UsageError.

        One in the user's own file is named with its line.
        """
        try:
            yield
        except Exception as error:
            what = None if self.is_ours else self._mistake(error)
            if what is None:
                raise
            raise UsageError(f"--recipe {self.name}: {what}") from error

    def _mistake(self, error: Exception) -> str | None:
        file = Path(self.name.rpartition(":")[0]).expanduser().absolute()
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename).absolute() == file]
        what = " ".join(str(error).split())
        if lines:
            return f"{file.name}, line {lines[-1]}: {type(error).__name__}: {what}"
        return what if type(error) in (TypeError, ValueError) else None


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
    if recipe in dj.RECIPES:
        named = dj.recipe_by_name(recipe, epochs=epochs, batch_size=batch_size)
        ours = task.dataset is not None
        plan = Plan(recipe, named.recipe, named.hyperparameters, named.epochs, ours)
    else:
        plan = _checked_plan(_made(recipe, task), recipe)
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


def _checked_plan(made: Any, recipe: str) -> Plan:
    """A plan of what the user's function made."""
    fits = isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], dj.Recipe)
    require(
        fits and isinstance(made[2], int) and made[2] >= 1,
        f"--recipe {recipe}: the function must give (Recipe, hyperparameters, epochs)",
    )
    trained, hyperparameters, epochs = made
    return Plan(recipe, trained, hyperparameters, epochs, is_ours=False)


def _made(recipe: str, task: Task) -> Any:
    """What the user's function gives."""
    file, _, function = recipe.rpartition(":")
    known = f"--recipe {recipe}: give {', '.join(dj.RECIPES)}, or FILE.py:FUNCTION"
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
    with usage_errors(f"--recipe {recipe}: {function} failed: ", (TypeError, ValueError)):
        return make(task.data)


def with_hyperparameters(h: Any, values: Mapping[str, Any], flag: str = "--set") -> Any:
    """The hyperparameters with other values, each by its leaf's name.

    Raises:
        UsageError: there is none of that name.
    """
    from digits_jax.runs.axis import with_leaves

    with usage_errors(f"{flag}: "):
        return with_leaves(h, values)


def with_settings(plan: Plan, settings: Mapping[str, Any], flag: str = "--set") -> Plan:
    """The plan with other values: of hyperparameters, batch_size, or network.FIELD.

    Raises:
        UsageError: there is nothing of that name, or the value doesn't fit.
    """
    recipe, numbers = plan.recipe, dict(settings)
    with usage_errors(f"{flag}: ", (TypeError, ValueError)):
        if "batch_size" in numbers:
            recipe = dataclasses.replace(recipe, batch_size=numbers.pop("batch_size"))
        fields = {
            name.removeprefix("network."): numbers.pop(name)
            for name in list(numbers)
            if name.startswith("network.")
        }
        if fields:
            recipe = dataclasses.replace(recipe, network=_with_fields(recipe.network, fields, flag))
    h = (
        with_hyperparameters(plan.hyperparameters, numbers, flag)
        if numbers
        else plan.hyperparameters
    )
    return plan._replace(recipe=recipe, hyperparameters=h)


def _with_fields(network: Any, fields: Mapping[str, Any], flag: str) -> Any:
    """The network, a linen module or one with hyperparameters, with other values of its fields."""
    import flax.linen as nn

    if isinstance(network, dj.NetworkWithHyperparameters):
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
