"""What ``ablate.py`` trains on the digits: each recipe with one choice of the other at a time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import digits_jax as dj
from common import plans
from common.plans import Plan
from digits_jax.networks import linen_module
from digits_jax.recipes.strong import average_decay

if TYPE_CHECKING:
    from ablate import Study

# What differs between the recipes: the fields that change hands together, by where they are.
CHANGES: dict[str, tuple[str, ...]] = {
    "pixels in 0 to 1": ("network.pixel_scale",),
    "two convolutions a stage": ("network.conv_features",),
    "no hidden dense layers": ("network.dense_features",),
    "batch normalisation": ("network.batch_norm",),
    "GELU": ("network.conv_activation",),
    "no dropout": ("hyperparameters.dropout_rate",),
    "augmentation": ("recipe.augment",),
    "five views of a test image": ("recipe.views",),
    "label smoothing": ("hyperparameters.label_smoothing",),
    "one-cycle learning rate": ("recipe.optimizer", "hyperparameters.learning_rate"),
    "weight decay": ("hyperparameters.weight_decay",),
    "averaged weights": ("hyperparameters.average_decay",),
    "batches of 64": ("recipe.batch_size",),
}


def digits_study(epochs: int) -> Study:
    """The notebook's recipe with each change, and the strong one without each."""
    notebook, strong = (complete(name, epochs) for name in ("notebook", "strong"))
    study = {"notebook": {"notebook": notebook}, "strong": {"strong": strong}}
    for change, fields in CHANGES.items():
        study["notebook"][f"notebook + {change}"] = swap(notebook, strong, fields)
        back = change.removeprefix("no ")  # where strong takes something away, it comes back
        without = f"strong - {change}" if back == change else f"strong + {back}"
        study["strong"][without] = swap(strong, notebook, fields)
    return study


def complete(name: str, epochs: int) -> Plan:
    """The recipe with every hyperparameter given, so that all variants have the same tree."""
    recipe, h, epochs = dj.recipe_by_name(name, epochs=epochs)
    network: Any = linen_module(recipe.network)
    if h.dropout_rate is None:
        h = h._replace(dropout_rate=network.dropout_rate)
    if h.average_decay is None:
        h = h._replace(average_decay=0.0)  # the average is then the last weights
    # The module's own rate is replaced by the hyperparameter, which is traced.
    traced: Any = dj.NetworkWithHyperparameters(network.clone(dropout_rate=0.25))
    recipe = dataclasses.replace(recipe, network=traced, average=average_decay)
    return Plan(name, recipe, h, epochs)


def swap(of: Plan, other: Plan, fields: tuple[str, ...]) -> Plan:
    """``of`` with the fields that ``other`` has."""
    for field in fields:
        where, name = field.split(".")
        if where == "recipe":
            changed: Any = {name: getattr(other.recipe, name)}
            of = of._replace(recipe=dataclasses.replace(of.recipe, **changed))
        elif where == "network":
            value = getattr(linen_module(other.recipe.network), name)
            of = plans.with_settings(of, {field: value})
        else:
            of = plans.with_settings(of, {name: getattr(other.hyperparameters, name)})
    return of
