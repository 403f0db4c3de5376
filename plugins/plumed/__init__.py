"""PLUMED as an OpenMM force; knows no learned model."""
