"""Potentials of pacemaker and ML-PACE, read into ACE's evaluator; and linear ACE written for them."""
