"""What runs one partition: its batches, its outputs, its writes, what it remembers."""
