"""tiny-sd3: the embedded model, how it is made, and where its weights are."""
