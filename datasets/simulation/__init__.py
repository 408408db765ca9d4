"""What synthetic data sets share: bodies, poses, rooms and depth sensors."""

SPLITS = ("train", "validation", "test")
