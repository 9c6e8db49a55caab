"""From checkpoint to something that runs in a car: export, manifest, back-ends, parity."""
