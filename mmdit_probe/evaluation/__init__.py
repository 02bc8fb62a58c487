"""Masks scored against ground truth."""
