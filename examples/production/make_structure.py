"""Write the structure that run.yaml starts from."""

from ase.build import molecule

atoms = molecule("CH3CH2OH")
atoms.write("ethanol.xyz")
print("written: ethanol.xyz;", ", ".join(f"{i} {s}" for i, s in enumerate(atoms.symbols, start=1)))
