"""Training: annotated images, crops, the loop, the size model."""
