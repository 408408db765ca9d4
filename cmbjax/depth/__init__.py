"""One depth image: read, searched for people, cropped, lifted; NumPy and OpenCV alone."""
