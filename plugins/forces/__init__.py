"""A site model becomes an OpenMM Force: the one place that knows TorchForce, PythonForce and Topology."""
