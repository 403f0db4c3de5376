"""Molecules by SiMGen: annealed Langevin dynamics on the similarity score, then chemistry that is checked."""
