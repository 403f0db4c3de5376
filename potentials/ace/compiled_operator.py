"""The compiled CPU operator of linear ACE.

``torch.ops.halberd.ace_sites`` does on a CPU what :class:`halberd.potentials.ace.sites.AceSites` does with ordinary
torch functions, several times faster.
"""

from __future__ import annotations

from pathlib import Path

from halberd.potentials.sites.compiled_list import LIST_OPERATOR
from halberd.potentials.sites.compiled_operators import CompiledOperator

ACE_OPERATOR = CompiledOperator(
    "ace", Path(__file__).with_name("compiled_operator.cpp"), "Linear ACE and PACE models", (LIST_OPERATOR,)
)
