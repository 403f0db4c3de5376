"""The door to reference calculators: labels under a time limit, from ASE or any command; knows no OpenMM."""
