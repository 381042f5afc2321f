"""Hoeffding trees that follow a changing concept, alone or as a forest: arrays and compiled code, River's numbers."""
