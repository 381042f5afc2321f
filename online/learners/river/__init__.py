"""Learners that River's trees and forests grow, mirrored in flat arrays for scoring and stored as plain numbers."""
