"""The design space of message-passing networks that holds linear ACE, NequIP, BOTNet and MACE as choices."""
