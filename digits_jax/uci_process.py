"""The program of the process in which ucimlrepo runs: it has no time limit, and its callers do.

    python -m digits_jax.uci_process ADDRESS FOLDER SECONDS

It sets ucimlrepo's one global, the service's address, and writes table.csv and about.json into the
folder, or error.txt with one line.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path

UCI_ID = 80


def main(address: str, folder: Path, seconds: float) -> int:
    """Writes what UCI answers; the exit status."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        import pandas
        from ucimlrepo import fetch

        fetch.API_BASE_URL = address
        found = fetch.fetch_ucirepo(id=UCI_ID)
        frame = found["data"]["original"]
        # pandas takes a column more than there are names for an index.
        surplus = not isinstance(frame.index, pandas.RangeIndex)
        frame.to_csv(folder / "table.csv", index=surplus, index_label="surplus")
        variables = json.loads(found["variables"].to_json(orient="records"))
        about = {"metadata": found["metadata"], "variables": variables}
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    except Exception as error:  # whatever a foreign server makes ucimlrepo and pandas raise
        causes = [error, *([error.__context__] if error.__context__ else [])]
        why = ": ".join(f"{type(each).__name__}: {each}" for each in causes)
        (folder / "error.txt").write_text(" ".join(why.split()), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
