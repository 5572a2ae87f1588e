"""`make demo`: settles a year of flights while workers and the broker are killed, and proves the books."""
