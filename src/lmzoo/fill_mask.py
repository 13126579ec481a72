"""`python -m lmzoo.fill_mask`: what a masked language model would put in a gap."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from lmzoo import cli
from lmzoo.arguments import parse


@dataclass
class FillMask:
    """What a masked model (objective=mlm or mlm_nsp) would put where a text has [MASK].

    The texts: text=, or one a line from file= or standard input. Several gaps of a text are guessed at
    once."""

    examples: ClassVar[str] = """\
        lmzoo fill-mask run=outputs/DATE/TIME text='The [MASK] sat on the mat.'
        lmzoo fill-mask run=my-bert file=gaps.txt top_k=1 json=true"""

    run: str
    """A run folder or a Hugging Face folder."""
    text: str | None = None
    """One text."""
    file: str | None = None
    """A file with one text a line."""
    top_k: int = 5
    """Guesses a gap."""
    json: bool = False
    """An object a line, for machines: text, and gaps with token, id, probability and text of every guess."""
    device: str = "cpu"
    """As PyTorch names it: cpu, cuda."""
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16", "fp16")})
    """Of the products; fp16 needs a GPU."""


def main(argv: list[str] | None = None) -> None:
    """Fill what the command line says.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        wanted = parse(list(sys.argv[1:] if argv is None else argv), "fill_mask", FillMask)
        if wanted is not None:
            _fill(wanted)


def _fill(wanted: FillMask) -> None:
    from lmzoo.inference.sources import given_texts

    source = given_texts(wanted.text, wanted.file)
    from lmzoo.inference.model import load  # torch, after the arguments have been accepted

    model = load(wanted.run, device=wanted.device, precision=wanted.precision)
    for number, text in enumerate(source.texts):
        gaps = model.fill_mask(text, wanted.top_k)
        if wanted.json:
            said = {"text": text, "gaps": [[asdict(guess) for guess in gap] for gap in gaps]}
            print(json.dumps(said, ensure_ascii=False))
            continue
        for place, gap in enumerate(gaps):
            if number or place:
                print()
            for guess in gap:
                token, text_ = (shown.replace("\n", "\\n") for shown in (guess.token.strip(" "), guess.text))
                print(f"{guess.probability:7.2%}  {token:<16} {text_}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
