"""The door to RDKit: bonds, files, metrics, QM9 and shapes; knows no OpenMM."""
