"""From trajectories to preference pairs."""
