"""`python -m plait_scheduler dev`: the whole of Plait on one machine, for development."""
