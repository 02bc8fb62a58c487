"""tiny-sd3, the embedded model: its weights, and the code that trained and measured it."""
