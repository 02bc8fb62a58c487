"""The other systems of the paper's tables, behind the protocols of Seg4Diff: `segment(image, classes)` and `group(image)`."""
