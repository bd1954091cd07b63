"""moedsl: a declarative language and a compiler for mixture-of-experts models."""

__version__ = "0.1.0"
