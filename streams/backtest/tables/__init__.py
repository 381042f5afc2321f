"""Turns files of any layout into columns of texts, numbers and times, and says what it decided of them."""
