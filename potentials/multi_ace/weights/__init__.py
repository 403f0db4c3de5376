"""Networks of other programs, weight by weight as networks of the family."""
