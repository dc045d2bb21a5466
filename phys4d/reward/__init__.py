"""Rewards over the wire: contract (`v1`), conversion (`wire`), client and plug-in protocol."""
