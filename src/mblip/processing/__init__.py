"""From instructions and images to batches."""
