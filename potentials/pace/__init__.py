"""Potentials of pacemaker and ML-PACE, read into ACE's evaluator."""
