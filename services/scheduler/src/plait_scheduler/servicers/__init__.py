"""What the scheduler serves itself."""
