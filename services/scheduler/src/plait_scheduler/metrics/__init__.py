"""What the scheduler tells Prometheus."""
