"""Attention or gates of one or two texts as one HTML page that needs no network."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lmzoo.errors import LmzooError

TOKEN_LIMIT = 512
"""Tokens of one text at most: 12 layers of 12 heads then make a page of about 30 MB."""

PRECISION = 10_000
"""Weights are kept as whole numbers of 1 / PRECISION."""

DIGITS = 5
"""Significant digits of layer mix, norms and gates."""

SCRIPTS = (
    "attention_page.js",
    "attention_lines.js",
    "attention_matrix.js",
    "attention_view.js",
    "gates_view.js",
)

_SPECIAL = re.compile(
    r"\[(?:CLS|SEP|PAD|UNK|MASK|BOS|EOS|unused\d+)\]|</?(?:s|cls|sep|pad|unk|mask|bos|eos)>|<\|\w+\|>",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_page(path: Path, views: Sequence[Mapping[str, Any]]) -> None:
    """Write one or two views, side by side, as one HTML file; the file is whole or not there.

    The same views give the same bytes. Nested lists below may be arrays.

    Args:
        path: the file to write, ``.html``; its folder is made if need be.
        views: each with ``title``, ``model``, ``text``, ``tokens`` (n readable strings) and, for a
            Transformer, ``streams``, each with ``name`` (empty, ``past`` or ``future``), ``layers``,
            ``heads`` and ``attention`` [layer][head][query][key] in [0, 1]; or, for ELMo, ``mix`` [layer],
            ``norms`` [layer][token] and ``gates``, each with ``name`` and ``values`` [layer][token][input,
            forget, output] in [0, 1]. Where mix and norms have one layer more than the gates, their first
            is the tokens' own representation, below the first layer of the LSTM. ``special`` (n booleans)
            says which tokens are special ones; if it is not there, their usual spellings do.

    Raises:
        LmzooError: no view or more than two, no token or more than ``TOKEN_LIMIT``, a number that is not
            finite, or a file that cannot be written.
    """
    if not 1 <= len(views) <= 2:
        raise LmzooError(f"a page shows one text or two, not {len(views)}; write several pages")
    content = json.dumps(
        {"precision": PRECISION, "views": [_view(view) for view in views]}, separators=(",", ":")
    )
    for sign in "<>&":  # so that no text can end the script element that holds it
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    parts = {
        "title": html.escape(" · ".join(dict.fromkeys(str(view["title"]) for view in views))),
        "heading": " · ".join(dict.fromkeys(_heading(view) for view in views)),
        "style": _part("attention_page.css"),
        "script": "".join(map(_part, SCRIPTS)),
        "data": content,
    }
    page = _PLACEHOLDER.sub(lambda found: parts[found[1]], _part("attention_page.html"))
    _replace(Path(path), page)


def _replace(path: Path, page: str) -> None:
    if path.is_dir():
        raise LmzooError(f"{path} is a folder; give a file in it, such as {path / 'attention.html'}")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8", errors="backslashreplace")
        beside.replace(path)
    except OSError as error:
        raise LmzooError(f"{path} cannot be written ({error.strerror}); give another file") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _part(name: str) -> str:
    return resources.files("lmzoo.analysis").joinpath(name).read_text(encoding="utf-8")


def _heading(view: Mapping[str, Any]) -> str:
    return "Attention" if "streams" in view else "Layers and gates"


def _view(view: Mapping[str, Any]) -> dict[str, Any]:
    """A view as attention_view.js and gates_view.js read it."""
    title, tokens = str(view["title"]), [str(token) for token in view["tokens"]]
    if not tokens:
        raise LmzooError(f"{title} has no token to show; give a text that is not empty")
    if len(tokens) > TOKEN_LIMIT:
        raise LmzooError(
            f"{title} has {len(tokens)} tokens, and a page shows {TOKEN_LIMIT} at most; "
            "give a shorter text, one paragraph say"
        )
    special = view.get("special")
    if special is None:
        special = [_SPECIAL.fullmatch(token) is not None for token in tokens]
    shown: dict[str, Any] = {
        "title": title,
        "model": str(view["model"]),
        "text": str(view["text"]),
        "tokens": tokens,
        "special": [number for number, is_special in enumerate(special) if is_special],
    }
    if "streams" in view:
        shown["streams"] = [_stream(stream, title, len(tokens)) for stream in view["streams"]]
        return shown
    mix, norms = _numbers(view["mix"], title, "layer mix"), _numbers(view["norms"], title, "norms")
    gates = [(str(gate["name"]), _numbers(gate["values"], title, "gates")) for gate in view["gates"]]
    shown |= {
        "mix": _rounded(mix),
        "norms": _rounded(norms),
        "gates": [{"name": name, "values": _rounded(values)} for name, values in gates],
    }
    for name, values in gates:
        if values.shape[1:] != (len(tokens), 3) or len(values) not in (len(mix), len(mix) - 1):
            raise ValueError(f"{title}: the gates of {name} have the shape {values.shape}")
    if norms.shape != (len(mix), len(tokens)):
        raise ValueError(f"{title}: the norms have the shape {norms.shape}, the mix {mix.shape}")
    return shown | {"below": len(mix) - len(gates[0][1])}


def _stream(stream: Mapping[str, Any], title: str, length: int) -> dict[str, Any]:
    """Weights as one string a layer: low bytes, then high bytes, (heads, n, n) each, zlib, base64.

    Apart, the two halves need hardly more room than what they say: the high bytes are nearly all zero.
    """
    weights = _numbers(stream["attention"], title, "attention")
    layers, heads = int(stream["layers"]), int(stream["heads"])
    if weights.shape != (layers, heads, length, length):
        wanted = (layers, heads, length, length)
        raise ValueError(f"{title}: attention has the shape {weights.shape}, not {wanted}")
    if weights.min() < -1e-3 or weights.max() > 1.001:
        raise ValueError(f"{title}: weights from {weights.min()} to {weights.max()}, outside [0, 1]")
    whole = np.rint(weights.clip(0, 1) * PRECISION).astype("<u2")
    packed = []
    for layer in whole:
        halves = layer.reshape(-1, 1).view(np.uint8).T  # (2, heads * n * n)
        packed.append(base64.b64encode(zlib.compress(halves.tobytes(), 9)).decode("ascii"))
    return {"name": str(stream["name"]), "layers": layers, "heads": heads, "weights": packed}


def _numbers(values: Any, title: str, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise LmzooError(f"the {what} of {title} has numbers that are not finite; take another checkpoint")
    return array


def _rounded(values: np.ndarray) -> Any:
    """Nested lists of numbers of ``DIGITS`` significant digits."""
    if values.ndim:
        return [_rounded(part) for part in values]
    return float(f"{float(values):.{DIGITS}g}")
