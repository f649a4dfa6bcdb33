"""Make batches from instructions and images."""
