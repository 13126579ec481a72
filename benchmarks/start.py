"""One training command, with the time of day at which it reaches each stage.

Run by `benchmarks.data` in a process of its own: ``python -m benchmarks.start SECONDS OVERRIDES…``, where
SECONDS is the time (since the epoch) at which the process was asked for. It does what ``python -m
lmzoo.train OVERRIDES…`` does, and prints as its last line the seconds from then to the end of each stage.
Nothing heavy is imported before the stage that needs it.
"""

from __future__ import annotations

import sys
import time

BEGUN = time.time()


def main() -> None:
    import functools
    import json
    from collections.abc import Callable

    from lmzoo import cli

    asked, *overrides = sys.argv[1:]
    reached = {"Python": BEGUN}

    def stamp(stage: str) -> None:
        reached.setdefault(stage, time.time())

    def then_stamp(function: Callable, before: str | None, after: str) -> Callable:
        @functools.wraps(function)
        def stamped(*given: object, **named: object) -> object:
            if before:
                stamp(before)
            value = function(*given, **named)
            stamp(after)
            return value

        return stamped

    def job(config: object, folder: object, resuming: bool) -> object:
        stamp("config and run folder")
        import torch  # noqa: F401

        stamp("import torch")
        import lightning  # noqa: F401

        stamp("import Lightning")
        from lmzoo import training
        from lmzoo.modules import LanguageModelModule

        stamp("import the rest of lmzoo")
        training.prepare = then_stamp(training.prepare, None, "corpus found")
        training.build_module = then_stamp(training.build_module, None, "model")
        training.build_loggers = then_stamp(training.build_loggers, None, "loggers")
        LanguageModelModule.training_step = then_stamp(
            LanguageModelModule.training_step, "trainer", "first step"
        )
        return training.train(config, folder, resuming)  # type: ignore[arg-type]

    cli.run(job, overrides)
    stamp("checkpoint, validation, export")
    print(json.dumps({stage: moment - float(asked) for stage, moment in reached.items()}))


if __name__ == "__main__":
    main()
