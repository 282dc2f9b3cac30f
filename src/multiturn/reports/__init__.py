"""The summary of a run and its HTML report."""
