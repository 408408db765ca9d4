"""An articulated person in front of a depth camera, synthesised on the spot."""
