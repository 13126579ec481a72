"""`lmzoo NAME …`: every command under one name, each the same as `python -m lmzoo.NAME …`."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module

from lmzoo import __version__, cli
from lmzoo.errors import LmzooError

COMMANDS = {
    "train": "train a model, or several with -m",
    "prepare": "the corpus and the tokenizer alone",
    "export": "a run as a folder that transformers opens",
    "embed": "vectors of texts or of their tokens",
    "score": "how likely texts are",
    "evaluate": "zero-shot yardsticks of a run",
    "finetune": "a labelled task: frozen probes and fine-tuning",
    "compare": "a report over runs: intervals, verdicts, figures",
    "fill-mask": "what a masked model would put in a gap",
    "generate": "how a causal model goes on with a text",
    "attention": "a page that shows attention, or an LSTM's gates",
}
"""Every command and what it is for; it lies in the module of its name, hyphens as underscores."""


def help_text() -> str:
    """What `lmzoo --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lmzoo COMMAND [KEY=VALUE ...]",
            "",
            "Which pretraining objective pays, on this corpus, under this budget?",
            "",
            "Commands (lmzoo COMMAND --help says more; python -m lmzoo.COMMAND is the same)",
            *lines,
            "",
            "Examples",
            "  lmzoo train model=gpt",
            "  lmzoo generate run=outputs/DATE/TIME text='Once upon a time'",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names.

    Raises:
        SystemExit: as the command does; status 1 where there is no such command.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with cli.one_line():
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(help_text(), flush=True)
            return
        if argv[0] == "--version":
            print(__version__, flush=True)
            return
        name = argv[0].replace("_", "-")
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(COMMANDS)}"
            raise LmzooError(f"{argv[0]} is not a command; {hint}")
    module = import_module(f"lmzoo.{name.replace('-', '_')}")
    sys.argv = [f"lmzoo {name}", *argv[1:]]
    module.main()


if __name__ == "__main__":
    main()
