"""Helpers that a user calls: listing runs, recording results, writing the configuration's reference."""
