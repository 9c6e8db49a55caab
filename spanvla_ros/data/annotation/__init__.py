"""The reasons of samples: annotators, their checked replies, review by people, agreement."""
