"""The forms of UCI's second file: whole sheets of digits, each in one writer's hand.

Rows 3823 to 5619 are 14 forms, one after another. All repeat one template of 130 digits, from which
five lack two to eight; of the labels one alone differs from it (row 4208, a 3 where the others have
an 8). So the rows of a hand are known, though UCI's files don't name the writers. The rows of the
first file are shuffled, and can't be told apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from digits_jax.splits import Split, SplitKind, one_split, stack_splits, writer_disjoint_split

FIRST = 3823  # row of the second file
# The first row of each form, counted from there.
STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)


def form_of_rows(labels: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """The form of each row, 0 to 13; -1 for rows of the first file, whose forms are not known.

    Args:
        labels: integers [5620], the classes of the full set in UCI's order.

    Returns:
        int32 [5620].

    Raises:
        TypeError: `labels` are not integers.
        ValueError: `labels` are not those of the full set in UCI's order.
    """
    writer_disjoint_split(labels)  # refuses other rows
    rows = np.arange(len(np.asarray(labels))) - FIRST
    return np.searchsorted(STARTS, rows, side="right").astype(np.int32) - 1


def leave_one_form_out(labels: npt.ArrayLike) -> Split:
    """A split for each form: it tests, and all other rows of both files train.

    Args:
        labels: see ``form_of_rows``.

    Returns:
        A Split [14, ...], of kind PREDEFINED, form by form.

    Raises:
        TypeError: see ``form_of_rows``.
        ValueError: see ``form_of_rows``.
    """
    form = form_of_rows(labels)
    return stack_splits(
        *(
            one_split(
                np.flatnonzero(form != each),
                np.flatnonzero(form == each),
                kind=SplitKind.PREDEFINED,
            )
            for each in range(len(STARTS))
        )
    )
