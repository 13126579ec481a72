"""What can be said about a model on the command line, and the table of sizes.

One dataclass an encoder: a key that an encoder does not have is refused when the config is composed.
A field left at None is filled from `size=`, or derived from the rest of the config.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from lmzoo.errors import one_of
from lmzoo.types import Context


@dataclass
class ModelConfig:
    """What every model has."""

    contexts: ClassVar[tuple[Context, ...]] = ()
    """What the encoder can give."""
    position_choices: ClassVar[tuple[str, ...]] = ()

    name: str = ""
    """The family: `elmo`, `gpt` or `bert`."""
    num_layers: int | None = None
    hidden_size: int | None = None
    """Width of the embedding and of the hidden states."""
    positions: str = "none"
    embedding_norm: bool = True
    dropout: float = 0.0
    tied: bool = True
    """Whether the output projection is the embedding table."""
    head: str = "dense"
    """`dense` (dense, GELU, norm, decoder: ModernBERT's) or `plain` (decoder alone)."""
    norm_eps: float = 1e-5
    initializer_range: float | None = None
    """Standard deviation of all initial weights; without it, by width: see ``matrix_std``."""
    num_segments: int | None = None
    """Rows of the segment table; derived: 2 where the view has pairs, else 0."""
    max_positions: int | None = None
    """Rows of the table of learned positions; derived: `seq_len`."""

    @property
    def matrix_std(self) -> float:
        """Standard deviation of initial matrices: 1/√width, which keeps the scale of what they multiply.

        The published 0.02 is about that at BERT's width of 768 and far too small at 128: a masked LM
        (tiny, 1.2 million tokens of the `stdlib` corpus, learning rate 3e-3, one run each) gained
        0.5 nats on the unigram entropy with 0.02 everywhere, 1.0 with matrices of 1/√width, and
        1.6 with tables of about half that.
        """
        return self.initializer_range or (self.hidden_size or 1) ** -0.5

    @property
    def table_std(self) -> float:
        """Standard deviation of initial tables: half of that, so that the first loss is near ln V."""
        return self.initializer_range or 0.5 * (self.hidden_size or 1) ** -0.5


@dataclass
class TransformerConfig(ModelConfig):
    """The Transformer; the defaults are the controlled line's (ModernBERT, Warner et al. 2024)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.PAST, Context.FULL, Context.APART)
    position_choices: ClassVar[tuple[str, ...]] = ("rotary", "learned", "sinusoidal", "none")

    num_heads: int | None = None
    ffn_size: int | None = None
    """Width of the feed-forward layer, after gating where there is a gate."""
    positions: str = "rotary"
    rotary_base: float = 10000.0
    norm_placement: str = "pre"
    activation: str = "geglu"
    bias: bool = False


@dataclass
class LstmConfig(ModelConfig):
    """ELMo's projected biLSTM (Peters et al. 2018, section 3.4)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.APART, Context.PAST)
    position_choices: ClassVar[tuple[str, ...]] = ("none", "learned", "sinusoidal")

    cell_size: int | None = None
    """Memory cells of a layer and direction, projected to `hidden_size`."""
    cell_clip: float = 3.0
    projection_clip: float = 3.0


MODELS: dict[str, type[ModelConfig]] = {
    "elmo": LstmConfig,
    "gpt": TransformerConfig,
    "bert": TransformerConfig,
}
"""The encoder of every family."""


@dataclass(frozen=True)
class Size:
    """One size for every family: encoders of the same parameter count to 5 %."""

    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    """8/3 of the hidden size: three matrices with a gate weigh what two of 4 times do without."""
    lstm_layers: int
    cell_size: int


SIZES: dict[str, Size] = {
    "tiny": Size(2, 128, 2, 344, 2, 86),
    "mini": Size(4, 256, 4, 680, 2, 340),
    "small": Size(4, 512, 8, 1368, 2, 684),
    "base": Size(12, 768, 12, 2048, 2, 3072),
    "large": Size(24, 1024, 16, 2736, 2, 8192),
}


def complete(model: ModelConfig, *, size: str, pairs: bool, seq_len: int) -> ModelConfig:
    """A copy of ``model`` with nothing left open.

    Args:
        model: what was said; it wins.
        size: fills the shape where nothing was said.
        pairs: whether the rows have two segments.
        seq_len: rows of a table of learned positions.

    Raises:
        LmzooError: the size is not known.
    """
    one_of("size", size, SIZES)
    shape = SIZES[size]
    said: dict[str, object] = {
        "hidden_size": shape.hidden_size,
        "num_segments": 2 if pairs else 0,
        "max_positions": seq_len if model.positions == "learned" else 0,
    }
    if isinstance(model, TransformerConfig):
        said |= {"num_layers": shape.num_layers, "num_heads": shape.num_heads, "ffn_size": shape.ffn_size}
    if isinstance(model, LstmConfig):
        said |= {"num_layers": shape.lstm_layers, "cell_size": shape.cell_size}
    return replace(model, **{name: value for name, value in said.items() if getattr(model, name) is None})
