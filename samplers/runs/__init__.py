"""What every sampler stands on: settings files, logs, checkpoints, interruption, processes; moves no atom."""
