"""YAML from elsewhere: plain values, and nothing that builds an object, runs code or grows as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: dicts, lists, texts, numbers, dates.

    A tag that names a class or a function is refused, and nothing of it runs. So is an alias, by which a few
    lines can stand for billions of values, or for a value inside itself.

    Raises:
        LmzooError: the file cannot be read, is no YAML, or has what is refused.
    """
    import yaml
    from yaml.composer import ComposerError

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise ComposerError(
                    None, None, f"the alias *{event.anchor} is not followed; write it out", event.start_mark
                )
            return super().compose_node(parent, index)

    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except RecursionError:
        raise LmzooError(f"{path} cannot be read as YAML: it is nested too deeply") from None
    except OSError as error:
        raise LmzooError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:  # its constructors raise whatever a date or a number happens to raise
        raise LmzooError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
