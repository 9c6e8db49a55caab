"""Supervised training of the VLM and the action expert."""
