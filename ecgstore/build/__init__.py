"""Folders into stores: settings, scan, plan, one task per shard, commits, seal."""
