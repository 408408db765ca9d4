"""K2HPD: human pose in Kinect v2 depth, 2-D labels."""
