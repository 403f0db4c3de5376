"""Other programs that run halberd's models: ASE, openmm-ml, GROMACS, LAMMPS. Stays unimported until one is used."""
