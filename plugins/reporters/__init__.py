"""What watches an OpenMM run: frames, logs, progress, and how far a committee disagrees."""
