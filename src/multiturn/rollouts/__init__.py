"""Running agents in environments and keeping what happened."""
