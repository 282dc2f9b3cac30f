"""Loading models and reading per-turn log-probabilities off them."""
