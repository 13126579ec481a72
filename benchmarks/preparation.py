"""How fast a corpus is prepared, and that ten times the text takes no more memory.

``python -m benchmarks.preparation TEXT.txt.gz`` prepares the given text, and a text ten times as long
that it makes of it, each in a process of its own, in a temporary folder. The copies in the longer text
have their paragraphs shuffled, so that all its documents differ. Peaks are of resident memory, threads
of the tokenizer included; of it, the pages of mapped files can be had back at any time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.readers import read_documents, resolve_paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", help="a text as data.train takes it")
    parser.add_argument("--times", type=int, default=10, help="how many times as long the longer text is")
    parser.add_argument("--child", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.text, Path(options.child))))
        return
    with tempfile.TemporaryDirectory(prefix="lmzoo-preparation-") as folder:
        longer = Path(folder) / f"{options.times}x.txt.gz"
        write_longer(options.text, longer, options.times)
        texts = {"1": Path(options.text), str(options.times): longer}
        print("| text | MB | documents | tokens | seconds | MB/s | peak MB | found again, s |")
        print("|---|---|---|---|---|---|---|---|")
        for times, text in texts.items():
            built, found = (in_child(text, Path(folder) / f"cache{times}") for _ in range(2))
            megabytes, seconds = built["bytes"] / 1e6, built["seconds"]
            cells = [
                f"×{times}",
                f"{megabytes:.1f}",
                f"{built['documents']:,}",
                f"{built['tokens']:,}",
                f"{seconds:.1f}",
                f"{megabytes / seconds:.1f}",
                f"{built['peak_bytes'] / 1e6:.0f}",
                f"{found['seconds']:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def measure(text: str, cache: Path) -> dict[str, float]:
    """Prepare the text in this process."""
    began = time.perf_counter()
    store = prepare(DataConfig(source="text", train=text), TokenizerConfig(), cache)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "bytes": sum(store.text_bytes.values()),
        "documents": sum(part.num_documents for part in store.parts.values()),
        "tokens": sum(part.num_tokens for part in store.parts.values()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_child(text: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.preparation", str(text), "--child", str(cache)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def write_longer(text: str, longer: Path, times: int) -> None:
    """Copies of the text, each with the paragraphs of every document in another order."""
    paths = resolve_paths(text, "text")
    with gzip.open(longer, "wt", encoding="utf-8", compresslevel=1) as file:
        for copy in range(times):
            shuffle = random.Random(copy).shuffle
            for document in read_documents(paths):
                paragraphs = document.text.split("\n")
                shuffle(paragraphs)
                file.write("\n".join(paragraphs) + "\n\n")


if __name__ == "__main__":
    main()
