"""Reads descriptor sets into the contracts of `domain`. The only place that knows how descriptors
are encoded.
"""
