"""The networks that the paper compares with, a file each."""
