"""Several opinions of one model family: committees, their disagreement, and the HAL bias made of it."""
