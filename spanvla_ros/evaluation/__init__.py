"""Judges plans and drives: open-loop errors, driving score, report."""
