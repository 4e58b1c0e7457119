"""Generated scenes: images, captions that describe them, and labels."""
