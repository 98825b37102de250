"""Environments and helpers of the tests."""
