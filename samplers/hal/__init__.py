"""Hyperactive learning: walkers pushed to where a committee disagrees, labels, fits, until trajectories hold."""
