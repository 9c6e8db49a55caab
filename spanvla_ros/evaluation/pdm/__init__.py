"""The PDM score of NAVSIM: v1 (PDMS) and v2 (EPDMS), as measure and as reward, batched over proposals."""
