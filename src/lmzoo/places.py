"""Where the package's own files lie, and the data that measurements are taken on."""

from __future__ import annotations

import os
from pathlib import Path

from lmzoo.errors import LmzooError

DATA = "LMZOO_DATA"
"""Environment variable that names the folder of the yardsticks' and tasks' files where no argument does."""


def config_folder() -> Path:
    """The folder of the YAML groups: inside the package where it was installed, else the repository's."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def data_root(given: str | None = None) -> Path | None:
    """The folder of the yardsticks' and tasks' files: ``given``, or what ``LMZOO_DATA`` names, or None.

    Raises:
        LmzooError: it is not there.
    """
    name = given or os.environ.get(DATA)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        what = f"root={given}" if given else f"the environment variable {DATA}={name}"
        raise LmzooError(
            f"{what} is no folder; give the one with zeroshot/, wsd/ and the tasks' folders in it"
        )
    return folder
