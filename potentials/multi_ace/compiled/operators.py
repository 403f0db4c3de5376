"""The compiled CPU operators of message passing.

``torch.ops.halberd.messages`` sums messages over neighbours, with radial weights as splines, ``torch.ops.halberd.mix``
maps features linearly and ``torch.ops.halberd.products`` takes the products of one atom; the gradients of all are
written by hand.
"""

from __future__ import annotations

from pathlib import Path

from halberd.potentials.sites.compiled_list import LIST_OPERATOR
from halberd.potentials.sites.compiled_operators import CompiledOperator

MULTI_ACE_OPERATOR = CompiledOperator(
    "multi-ace",
    Path(__file__).with_name("operators.cpp"),
    "Networks of the message-passing family",
    (LIST_OPERATOR,),
)
