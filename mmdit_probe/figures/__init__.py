"""Frames and arrays to matplotlib figures, in one style for print; nothing here computes."""
