"""From a depth image to poses, with NumPy, OpenCV and ONNX Runtime alone."""
