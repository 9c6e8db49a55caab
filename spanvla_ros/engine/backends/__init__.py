"""Implementations of contracts.Backend."""
