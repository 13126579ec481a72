"""`python -m lmzoo.generate`: texts that a causal model goes on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import ClassVar

from lmzoo import cli
from lmzoo.arguments import parse

PROMPTS_AT_ONCE = 256
"""Prompts that are read and put side by side by length."""


@dataclass
class Generate:
    """How a causal model (objective=clm) goes on with a text.

    The prompts: text=, or one a line from file= or standard input. Each step takes the likeliest token;
    do_sample=true, or any of temperature=, top_k= and top_p=, draws instead; num_beams= searches."""

    examples: ClassVar[str] = """\
        lmzoo generate run=outputs/DATE/TIME text='Once upon a time' max_new_tokens=100
        lmzoo generate run=outputs/DATE/TIME text='The list' temperature=0.8 top_p=0.95 seed=3
        lmzoo generate run=my-gpt2 file=prompts.txt num_beams=4 stop='["\\n"]' json=true"""

    run: str
    """A run folder or a Hugging Face folder."""
    text: str | None = None
    """One prompt."""
    file: str | None = None
    """A file with one prompt a line."""
    max_new_tokens: int = 64
    """Longest continuation."""
    do_sample: bool | None = None
    """Draw tokens; by default where temperature=, top_k= or top_p= is given."""
    temperature: float | None = None
    """Divides the logits; 1 by default."""
    top_k: int | None = None
    """Draw among so many of the likeliest tokens."""
    top_p: float | None = None
    """Draw among the fewest tokens that together have so much probability."""
    num_beams: int = 1
    """Continuations that are searched side by side."""
    length_penalty: float = 1.0
    """A beam's log-probability is divided by its length to this power."""
    stop: list[str] = field(default_factory=list)
    """Strings; the text ends before the first of them."""
    seed: int = 1
    """Of the draws."""
    use_cache: bool = True
    """Keep what was read; without, every step reads everything anew."""
    batch_size: int = 16
    """Prompts side by side."""
    json: bool = False
    """An object a line, for machines: prompt, text, ids, score, finish."""
    device: str = "cpu"
    """As PyTorch names it: cpu, cuda."""
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16", "fp16")})
    """Of the products; fp16 needs a GPU."""


def main(argv: list[str] | None = None) -> None:
    """Generate what the command line says.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        wanted = parse(list(sys.argv[1:] if argv is None else argv), "generate", Generate)
        if wanted is not None:
            _generate(wanted)


def _generate(wanted: Generate) -> None:
    from lmzoo.inference.sources import given_texts, slow_progress

    source = given_texts(wanted.text, wanted.file)
    from lmzoo.inference.generate import Plan, generate
    from lmzoo.inference.model import load  # torch, after the arguments have been accepted

    said = asdict(wanted)
    plan = Plan(**{name: said[name] for name in Plan.__dataclass_fields__})
    plan.check()
    model = load(wanted.run, device=wanted.device, precision=wanted.precision)
    with slow_progress("generating", source.total) as advance:
        count = 0
        for prompts in _some(source.texts, PROMPTS_AT_ONCE if source.total != 1 else 1):
            for found in generate(model.engine, prompts, plan, first=count):
                if wanted.json:
                    print(json.dumps(asdict(found), ensure_ascii=False))
                else:
                    print("\n" * bool(count) + found.prompt + found.text)
                count += 1
                advance(1)
            sys.stdout.flush()


def _some(texts: Iterator[str], count: int) -> Iterator[list[str]]:
    while held := list(islice(texts, count)):
        yield held


if __name__ == "__main__":
    main()
