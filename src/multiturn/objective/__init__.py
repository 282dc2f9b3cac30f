"""The objectives as pure functions of per-turn log-probability sums."""
