"""Where the package's own files lie."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """The folder of the YAML groups: inside the package where it was installed, else the repository's."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"
