"""Networks of the family on compiled operators, for CPUs and GPUs, for evaluation and for training."""
