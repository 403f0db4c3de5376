"""Algorithms that move atoms: production runs, and what builds on them."""
