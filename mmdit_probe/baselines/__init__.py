"""The other systems of the paper's tables, with the same calls as Seg4Diff: `segment(image, classes)` and `group(image)`."""
