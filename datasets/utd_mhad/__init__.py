"""UTD-MHAD: people before a Kinect v1, in motion."""
