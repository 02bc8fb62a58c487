"""Text, HTML, memory, processes."""
