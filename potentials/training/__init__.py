"""Training networks of the family: graphs of labelled frames, losses, and a loop that goes on where it was ended."""
