"""Networks of mace-torch: as site models, as descriptors, and with a Bayesian last layer."""
