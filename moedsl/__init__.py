"""moedsl: a declarative language and a compiler for mixture-of-experts models."""

from moedsl.load import load
from moedsl.pipeline import Result, check, compile
from moedsl.source import Source

__version__ = "0.1.0"

__all__ = ["Result", "Source", "__version__", "check", "compile", "load"]
