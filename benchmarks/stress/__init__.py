"""Measurements that take a machine for a while: a million partitions, requests to object storage, damaged files."""
