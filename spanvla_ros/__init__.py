"""SpanVLA as a ROS 2 planner: cameras and odometry in, a trajectory and the reason for it out."""

__version__ = "0.1.0"
