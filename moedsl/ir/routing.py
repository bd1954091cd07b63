"""Lowering; being written."""
