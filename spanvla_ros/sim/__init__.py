"""Embedded simulator: world, ego, renderer, expert driver and scenarios. ROS-free, seeded, step-synchronous."""
