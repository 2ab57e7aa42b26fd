"""What a run needs: the step, the optimiser, devices and hosts, checkpoints, metrics and progress."""
