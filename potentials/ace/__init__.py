"""Linear ACE: basis, evaluation on ordinary torch or a compiled operator, and its Bayesian fit."""
