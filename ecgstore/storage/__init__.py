"""The store on disk: its names, array, tables, manifest; how it is published, opened and read."""
