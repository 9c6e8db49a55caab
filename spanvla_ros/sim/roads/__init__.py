"""Maps, roads and paths: generated or committed SUMO nets, what lies on them, OpenDRIVE."""
