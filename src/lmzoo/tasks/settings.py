"""What can be said about a probe or a fine-tuning: types and defaults only, nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmzoo.errors import LmzooError, one_of

MODES = ("frozen", "full")
POOLS = ("auto", "cls", "last", "mean", "max", "concat")
NAMED_LAYERS = ("mix", "top", "static", "each")
FROZEN_ONLY = {"layers": "mix", "beside": "none", "mix_penalty": 0.0}
"""Keys that a whole model in training does not look at, with the values that they then have."""


@dataclass(kw_only=True)
class Settings:
    """How a task is learned; a value left at null is filled from the mode, the recipe and the model."""

    mode: str = field(default="frozen", metadata={"choices": MODES})
    """frozen: a head over the model's features, which stay as they are. full: all weights are trained."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Of the head's first weights, the order of the items and dropout: a training each."""
    layers: str = "mix"
    """frozen: mix (ELMo's: weights s and a factor γ are learned), top, static (layer 0), a layer's number, or
    each (every layer alone)."""
    head: str = field(default="linear", metadata={"choices": ("linear", "bilstm")})
    """bilstm: a bidirectional LSTM under the linear layer."""
    mix_penalty: float = 0.0
    """frozen: λ of λ‖w‖², added to the loss for the weights w of a mixture, which draws it to the mean of all
    layers (ELMo's 1 and 0.001)."""
    beside: str = field(default="none", metadata={"choices": ("none", "input", "output", "both")})
    """frozen: the task's own vectors of words (tagging) or tokens. input: joined with the features; output:
    the features are joined with the biLSTM's states instead; both: with either, as ELMo did."""
    pool: str = field(default="auto", metadata={"choices": POOLS})
    """One vector of a text: cls, last (of two streams each where it has read all), mean, max, or ULMFiT's
    concat of last, max and mean. auto: frozen mean (max over a biLSTM); full cls with BERT's pooler where a
    position sees everything, else last."""
    pieces: str = field(default="first", metadata={"choices": ("first", "mean")})
    """One vector of a word: its first sub-word's, or the mean of all."""
    context: str = field(default="as_pretrained", metadata={"choices": ("as_pretrained", "full")})
    """full: a causal Transformer attends both ways from here on."""
    recipe: str = field(default="plain", metadata={"choices": ("plain", "ulmfit")})
    """full: plain (AdamW, warm-up, linear decay: BERT's) or ulmfit (rates by layer, slanted triangular
    schedule, gradual unfreezing, pool=concat)."""
    lr: float | None = None
    """Learning rate; by default the task's own, or one for the mode and the model's width."""
    lrs: list[float] | None = None
    """Several: each is tried for each seed, and the best on the part for stopping is taken."""
    epochs: int | None = None
    """At most: frozen 20, full 3, recipe=ulmfit one a group of layers and 3 more."""
    patience: int | None = None
    """Epochs without a better score on the part for stopping before the end: frozen 4, full all."""
    batch_size: int = 32
    """Items (spans: windows) a step."""
    dropout: float = 0.1
    """Of the head."""
    hidden_size: int = 128
    """Of each direction of a biLSTM."""
    own_size: int = 100
    """Of the task's own vectors."""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of the steps over which the rate rises."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    max_length: int | None = None
    """Tokens of a row, special ones included; by default the task's, or what the model was trained on."""
    stride: int | None = None
    """By how many tokens the windows over a longer text move on; by default half of a window."""
    max_answer: int = 30
    """Tokens of an answer."""
    random_control: bool = True
    """Also learn from the same architecture with random weights."""
    random_seeds: list[int] | None = None
    """Seeds of that control; by default the first of seeds."""
    static_control: bool = True
    """Also learn from the bag of layer 0's vectors (sentences, pairs and tagging)."""
    features_gigabytes: float = 4.0
    """Room for cached features on disk; features that do not fit are computed anew in every epoch."""
    cache_dir: str | None = None
    """Where they lie; by default LMZOO_CACHE, or the platform's cache folder."""
    limit: int | None = None
    """Items of each part at most; for a trial."""
    device: str = "cpu"
    """As PyTorch names it: cpu, cuda."""
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16", "fp16")})
    """Of the model's products; fp16 needs a GPU and mode=frozen."""


_AT_LEAST = {
    "epochs": 1,
    "patience": 1,
    "batch_size": 1,
    "hidden_size": 1,
    "own_size": 1,
    "max_length": 8,
    "stride": 1,
    "max_answer": 1,
    "limit": 1,
    "weight_decay": 0,
    "gradient_clip": 0,
    "mix_penalty": 0,
    "features_gigabytes": 0,
}
VARIANTS = (
    *("layers", "mix_penalty", "head", "beside", "pool", "pieces", "context", "recipe"),
    *("lr", "lrs", "epochs", "limit"),
)
"""Keys that name the folder of a result where they are not at their defaults."""


def check(settings: Settings) -> None:
    """Check what needs neither model nor task.

    Raises:
        LmzooError: a value out of range, or two that do not go together.
    """
    for key, least in _AT_LEAST.items():
        given = getattr(settings, key)
        if given is not None and not given >= least:
            raise LmzooError(f"{key}={given} is too small; give at least {least}")
    for key in ("seeds", "random_seeds"):
        seeds = getattr(settings, key)
        if seeds is not None and (not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds)):
            raise LmzooError(f"{key}={seeds}: give one or more seeds, none twice and none below 0")
    for key in ("dropout", "warmup"):
        if not 0 <= getattr(settings, key) < 1:
            raise LmzooError(f"{key}={getattr(settings, key)} is out of range: give a share in [0, 1)")
    if settings.lr is not None and settings.lrs is not None:
        raise LmzooError("lr= and lrs= are both given: give one rate, or several to choose among")
    for rate in [*(settings.lrs or []), *([] if settings.lr is None else [settings.lr])]:
        if not 0 < rate < float("inf"):
            raise LmzooError(f"a learning rate of {rate} is out of range; give a number above 0")
    if not settings.layers.isdecimal():
        one_of("layers", settings.layers, (*NAMED_LAYERS, "0", "1", "…"))
    if settings.mode == "full":
        for key, usual in FROZEN_ONLY.items():
            if getattr(settings, key) != usual:
                raise LmzooError(f"{key}={getattr(settings, key)} goes with mode=frozen alone; leave it out")
        if settings.precision == "fp16":
            raise LmzooError("precision=fp16 does not go with mode=full; take bf16 or fp32")
    elif settings.recipe != "plain":
        raise LmzooError(f"recipe={settings.recipe} trains all layers; it goes with mode=full alone")
    if settings.beside in ("output", "both") and settings.head != "bilstm":
        raise LmzooError(f"beside={settings.beside} joins features with a biLSTM's states; add head=bilstm")


def variant_of(settings: Settings) -> str:
    """What distinguishes these settings from the defaults, as part of a folder's name; empty for none."""
    usual = Settings()
    parts = []
    for key in VARIANTS:
        value = getattr(settings, key)
        if value != getattr(usual, key):
            told = "_".join(f"{entry:g}" for entry in value) if isinstance(value, list) else value
            parts.append(f"{key}_{told:g}" if isinstance(value, float) else f"{key}_{told}")
    return "-".join(parts)
