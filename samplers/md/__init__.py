"""Production molecular dynamics: stages, ensembles, walkers, replica exchange, exact restarts."""
