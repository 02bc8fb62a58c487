"""What is measured on images and masks: CLIP and DINO similarity, IoU, matching, bootstrap intervals."""
