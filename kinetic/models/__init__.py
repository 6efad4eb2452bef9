"""Whatever can be followed: opened from a run, a checkpoint or a training set."""
