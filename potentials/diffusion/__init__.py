"""Energies whose gradients take noise out of molecules: diffusion models on the Multi-ACE family."""
