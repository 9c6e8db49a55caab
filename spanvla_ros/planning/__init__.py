"""From stamped inputs to a plan: numpy and OpenCV only."""
