"""lmzoo: which pretraining objective pays, on this corpus, under this budget?

Importing the package costs nothing: torch, Lightning and W&B are imported by the modules that
need them.
"""

__version__ = "0.1.0"
