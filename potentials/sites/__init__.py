"""The contract of a model, species and edges in and site energies out, and the neighbours it is given; knows no model."""
