"""Samples for training: schema `mreasoning/1`, writers and readers, collection in the simulator."""
