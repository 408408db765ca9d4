"""One depth image: read, searched for people, cropped and lifted."""
