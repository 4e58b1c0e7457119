"""What all pages have in common: templates, charts, thumbnails, wording."""
