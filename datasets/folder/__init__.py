"""A folder of the user's own depth frames with COCO keypoints."""
