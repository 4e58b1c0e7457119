"""Generated scenes: pictures, captions that describe them, and labels."""
