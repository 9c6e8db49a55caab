"""Scenario families and the episodes that seeds make of them."""
