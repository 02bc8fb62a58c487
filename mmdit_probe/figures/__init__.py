"""Drawing frames and arrays as matplotlib figures in one style for print; nothing here computes."""
