"""CARLA as a simulator: its physics and pictures, our scenarios and judge."""
