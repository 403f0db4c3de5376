"""Physical constants and unit conversions, and nowhere else.

CODATA 2018, exact since the 2019 SI where elementary charge, Avogadro's and Boltzmann's numbers are involved.
Other codes carry older values (ASE's default eV differs by 8e-9 relative, openmm-ml's by 3e-7), so energies
compared across codes agree to about 1e-6 relative at best.
"""

from __future__ import annotations

#: One electronvolt in kJ/mol (elementary charge times Avogadro's number).
EV_IN_KJ_PER_MOL = 96.48533212331

#: One hartree in eV.
HARTREE_IN_EV = 27.211386245988

#: One nanometre in angstrom.
NM_IN_ANGSTROM = 10.0

#: One eV/angstrom in kJ/mol/nm.
EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM = EV_IN_KJ_PER_MOL * NM_IN_ANGSTROM

#: Molar gas constant in kJ/mol/K.
GAS_CONSTANT_KJ_PER_MOL_K = 0.00831446261815324

#: One eV/angstrom^3 in bar.
EV_PER_ANGSTROM3_IN_BAR = 1602176.634

#: One kJ/mol/nm^3 in bar.
KJ_PER_MOL_NM3_IN_BAR = 16.6053906717

#: One dalton per angstrom^3 in g/cm^3.
DALTON_PER_ANGSTROM3_IN_G_PER_CM3 = 1.66053906660
