"""`make demo`: settles a year of flights under fire and proves the books."""
