"""From conversations to token ids whose turns are known exactly."""
