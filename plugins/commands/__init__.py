"""The ``halberd`` command: a few lines over the Python API each. Commands above this room register by entry points."""
