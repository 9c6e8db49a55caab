"""NAVSIM / OpenScene: logs, sensors and maps into samples and PDM scenes; plans out as an agent or a submission."""
