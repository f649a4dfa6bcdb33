"""Metrics as pure functions; each names the scorer or paper whose numbers it gives."""
