"""MAGNET: what a LoRA fine-tune with a mask loss on the expert layer's I2T maps needs (Seg4Diff, section 5)."""
