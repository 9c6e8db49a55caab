"""Planner node and simulator node: the only code that needs rclpy."""
