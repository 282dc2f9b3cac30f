"""Environments: the protocol, the registry and those that ship with multiturn."""
