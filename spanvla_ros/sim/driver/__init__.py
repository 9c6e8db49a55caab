"""The expert driver: what it plans, why, in which words; and bad drivers."""
