"""Records of one shape, written and read a batch at a time by compiled code."""
