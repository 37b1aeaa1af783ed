"""The seven documented differences between a drifted DINOv2 fork and official code."""
