"""ITOP: human pose in Kinect v1 depth from the side and from the top."""
