"""Compared methods without a network: trees that compare depths around a point.

`parts`: RF, a body part for each pixel (Shotton et al., "Real-time human pose
recognition in parts from single depth images", CVPR 2011). `walks`: RTW, a walk from
joint to joint (Jung et al., "Random tree walk toward instantaneous 3D human pose
estimation", CVPR 2015). `votes`: a hand's joints, voted for (Xu & Cheng, ICCV 2013).
scikit-learn grows the trees.
"""
