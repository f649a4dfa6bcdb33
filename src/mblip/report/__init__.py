"""Reports of evaluations as pages and tables."""
