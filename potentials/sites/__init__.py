"""The contract of a model, species and edges in and site energies out, and its neighbours; knows no model."""
