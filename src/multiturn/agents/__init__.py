"""Agents: whatever answers a conversation with the next turn."""
