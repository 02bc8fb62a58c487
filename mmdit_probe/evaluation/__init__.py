"""Masks compared with ground truth on labeled data sets."""
