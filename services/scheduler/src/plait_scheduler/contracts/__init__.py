"""What is known of contracts: their reviews and their history. Used by the loop that decides and by
the service that people ask.
"""
