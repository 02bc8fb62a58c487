"""Numbers of images and masks: CLIP and DINO, IoU, matching, bootstrap."""
