"""ASTAR: hand pose in time-of-flight depth."""
