"""Initial weights: one place that knows how a config wants its matrices drawn."""

from __future__ import annotations

from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig


def draw_matrix(weight: Tensor, config: ModelConfig, std: float) -> None:
    """Fill a matrix in place as ``config.initializer`` says, with standard deviation ``std``.

    ``truncated_normal`` is cut at two standard deviations, as TensorFlow's, which BERT used, is; its own
    deviation is then 0.88 of ``std``. ``glorot`` (Glorot and Bengio 2010, equation 16), which TensorFlow's
    LSTMs and so ELMo's took by default, looks at the shape alone.
    """
    match config.initializer:
        case "truncated_normal":
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        case "glorot":
            nn.init.xavier_uniform_(weight)
        case _:
            nn.init.normal_(weight, std=std)
