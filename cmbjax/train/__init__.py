"""Training: the step, the loop around it, and the folder of a run."""
