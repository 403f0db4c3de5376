"""Free energy along the torsion from the hills of a run: ``python free_energy.py production_out`` draws it there."""

import sys
from pathlib import Path

import numpy as np

from halberd.plugins import new_figure, save_figure

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "production_out")
hills = np.loadtxt(folder / "HILLS", comments="#", ndmin=2)
angles = np.linspace(-np.pi, np.pi, 241)
figure, axes = new_figure(1, 1, width=5.0, height=3.2)
for share, color in ((0.5, "grey"), (1.0, "tab:blue")):
    some = hills[: max(1, int(share * len(hills)))]
    apart = (angles[:, None] - some[:, 1] + np.pi) % (2 * np.pi) - np.pi
    # Heights in the file are already those that add up to minus the free energy.
    profile = -(some[:, 3] * np.exp(-0.5 * (apart / some[:, 2]) ** 2)).sum(axis=1)
    axes[0, 0].plot(np.degrees(angles), profile - profile.min(), color=color, label=f"{len(some)} hills")
axes[0, 0].set(xlabel="torsion C-C-O-H, degrees", ylabel="free energy, kJ/mol")
axes[0, 0].legend(frameon=False, fontsize=8)
save_figure(figure, folder / "profile.png")
print(f"written: {folder / 'profile.png'}")
