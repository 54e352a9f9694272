"""Optuna proposes waves of configurations, each of which trains here at once, on all folds.

    pip install optuna
    python experiments/examples/optuna_waves.py --storage sqlite:///study.db

Start it any number of times, on any hosts that reach the storage: all share the study, and draw
from what each has told it. Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization
Framework", 2019, arXiv:1907.10902.
"""

import os
import time

import numpy as np
import optuna
import sqlalchemy.exc
import tyro

import digits_jax as dj

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "dropout_rate": optuna.distributions.FloatDistribution(0, 0.6),
}


def main(storage: str, waves: int = 4, wave_size: int = 8, epochs: int = 10) -> optuna.Study:
    """Trains some waves for the study; validation rows of each fold score a configuration.

    Args:
        storage: The study's, as a URL: sqlite:///FILE, or a server's.
        waves: That this process trains.
        wave_size: Configurations that train at once.
        epochs: Passes over the training rows.
    """
    study = shared_study(storage)
    digits = dj.load_digits("bundled")
    splits = dj.with_validation(dj.kfold_splits(digits.labels, folds=3), 0.2)
    for _ in range(waves):
        trials = [study.ask(SPACE) for _ in range(wave_size)]
        h = {name: np.array([trial.params[name] for trial in trials]) for name in SPACE}
        runs = dj.make_runs(splits, configurations=dj.Hyperparameters(**h))
        result = dj.cross_validate(digits.data, runs, epochs=epochs)
        scores = result.validation["accuracy"].reshape(wave_size, -1).mean(axis=1)
        for trial, score in zip(trials, scores.tolist(), strict=True):
            study.tell(trial, score)
    print(f"the best of {len(study.trials)}: {study.best_value:.4f}, {study.best_params}")
    return study


def shared_study(storage: str, tries: int = 5) -> optuna.Study:
    """The study, made by whoever comes first.

    Of processes that find no tables and make them at once, all but one fail; they try again.
    """
    try:
        return optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.TPESampler(constant_liar=True),  # others' trials are under way
            study_name="digits",
            direction="maximize",
            load_if_exists=True,
        )
    except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError):
        if tries == 1:
            raise
    time.sleep(1)
    return shared_study(storage, tries - 1)


if __name__ == "__main__":
    dj.use_all_cpu_cores()
    try:
        tyro.cli(main, description=__doc__)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os._exit(1)
