"""Benchmarks: `python -m benchmarks.NAME`; see README.md beside this file."""

import os

# as `python -m lmzoo.train` sets it for itself (see there), here for all contestants and their children
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
