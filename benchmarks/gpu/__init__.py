"""One GPU: `python -m benchmarks.gpu`; `__main__.py` says what is measured."""
