"""Masks from attention, and how good they are."""
