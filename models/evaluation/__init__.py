"""Whether a candidate is better than the champion."""
