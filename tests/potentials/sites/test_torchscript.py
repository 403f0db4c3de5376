"""What concerns torch as a whole."""

import pytest
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.torchscript import set_threads


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31, 10**40])
def test_numbers_of_threads_that_torch_would_crash_on(threads):
    before = torch.get_num_threads()
    with pytest.raises(ConfigurationError, match="it must be from 1 to 1024"):
        set_threads(threads)
    assert torch.get_num_threads() == before
    set_threads(None)
    set_threads(before)
    assert torch.get_num_threads() == before
