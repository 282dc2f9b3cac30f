"""The stages of one run, its configuration, its directory and its manifest."""
