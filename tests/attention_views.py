"""Views for the attention page: small, seeded, other numbers in every head."""

from __future__ import annotations

import numpy as np

from lmzoo.analysis.attention_page import PRECISION

CAT = ["[CLS]", "The", " cat", " sat", "\n", "猫", " 😀", "[SEP]"]
NASTY = "</script><script>window.broken = 1</script><!-- <script> \"'&\u2028\ud83d"
CLOSE = 0.5 / PRECISION + 1e-6


def weights(layers: int, heads: int, length: int, seed: int = 0, *, causal: bool = False) -> np.ndarray:
    """Rows that sum to one, other ones in each head."""
    scores = np.random.default_rng(seed).normal(0, 2, (layers, heads, length, length))
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e9))
    return shares / shares.sum(-1, keepdims=True)


def attends(tokens=CAT, layers=3, heads=4, seed=0, title="A cat", **streams) -> dict:
    """A view of a Transformer: one nameless stream, or those given by name."""
    given = streams or {"": weights(layers, heads, len(tokens), seed)}
    listed = [
        {"name": name, "layers": len(shares), "heads": shares.shape[1], "attention": shares}
        for name, shares in given.items()
    ]
    return {"title": title, "model": "bert · mlm", "text": "".join(tokens), "tokens": list(tokens)} | {
        "streams": listed
    }


def gated(tokens=CAT, layers=2, seed=0, title="A cat in ELMo") -> dict:
    draw = np.random.default_rng(seed)
    return {
        "title": title,
        "model": "elmo · bilm",
        "text": "".join(tokens),
        "tokens": list(tokens),
        "layers": layers + 1,
        "mix": [0.2, 0.5, 0.3],
        "norms": draw.gamma(9, 1, (layers + 1, len(tokens))),
        "gates": [
            {"name": name, "values": draw.uniform(size=(layers, len(tokens), 3))}
            for name in ("past", "future")
        ],
    }
