"""Decisions: thresholds over scores, alerts that open, escalate and end, and the reasons they give."""
