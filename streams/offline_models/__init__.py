"""The full model in the shell: which version serves, loading it, and swapping it in between two batches."""
