"""Training: optimiser, schedules, what is trained and what is frozen, one loop, checkpoints."""
